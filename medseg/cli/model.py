"""``medseg model``: bring in a model that other software trained; see what a package holds."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from medseg.cli.console import console
from medseg.errors import UsageError

if TYPE_CHECKING:
    from medseg.model import ModelPackage

_SHOWN_DIGITS = 12
_MEGABYTE = 1e6

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Bring in a model that nnU-Net trained, and see what a model package holds.",
)


class Checkpoint(Enum):
    """Which of nnU-Net's checkpoints."""

    FINAL = "final"
    BEST = "best"


@app.command("import-nnunet")
def import_nnunet(
    results: Annotated[
        Path,
        typer.Argument(
            help="nnU-Net's folder of a trained model, TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json "
            "and fold_0; or the folder of the data set, where there is one such folder in it."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the package, new or empty.")],
    configuration: Annotated[
        str | None,
        typer.Option(help="Such as 3d_fullres, where the data set has several models.", show_default=False),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            help="Such as 0,1,2; or all for fold_all, the network that was trained on every case. Default: every "
            "numbered fold that is there.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Checkpoint, typer.Option(help="The last one, or the one that did best on the validation cases.")
    ] = Checkpoint.FINAL,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model. Default: data set and configuration.", show_default=False),
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option(
            help="Such as LPS: to which ends of the patient the axes of the training files ran. Images are turned "
            "likewise. Default: images are taken as they are stored, where nnU-Net did.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a model package of a model that nnU-Net 2 trained; it predicts the same.

    Plain and residual-encoder U-Nets, 2-D and 3-D, of any folds; a cascade takes
    along its first stage. nnU-Net need not be installed. Checkpoints are read
    without running code: one that holds other objects than tensors, numbers and
    plain values is refused.

    [bold]Examples:[/bold]

    medseg model import-nnunet nnUNet_results/Dataset004_Hippocampus -o hippocampus_model

    medseg model import-nnunet Dataset017_BTCV --configuration 3d_fullres --folds 0,1 -o btcv_model
    """
    from medseg.nnunet.package import NnunetChoice
    from medseg.nnunet.package import import_nnunet as write_package

    choice = NnunetChoice(configuration, _folds(folds), checkpoint.value, name, orientation)
    package = write_package(results, output, choice)
    console.print(_summary(output, package), _label_table(package))
    _say(f"Written: {output}")
    _say(f"Next: medseg segment STUDY --model {output} -o masks/")


@app.command("show")
def show(
    package: Annotated[Path, typer.Argument(help="A model package, or a run folder that holds one.")],
) -> None:
    """Print what a model is: channels, labels, network, folds, accuracy, where it comes from.

    [bold]Example:[/bold] medseg model show runs/my
    """
    from medseg.model import load_package

    found = load_package(package)
    console.print(_summary(package, found), _label_table(found))


def _folds(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    folds = tuple(part.strip() for part in text.split(","))
    if folds != ("all",) and not all(fold.isdecimal() for fold in folds):
        raise UsageError("--folds", expected="numbers such as 0,1,2, or all", found=text, remedy="correct it")
    return folds if folds == ("all",) else tuple(str(int(fold)) for fold in folds)


def _summary(path: Path, package: ModelPackage) -> Table:
    table = Table(show_header=False, title=escape(package.name), title_justify="left")
    for key, value in (_facts(package) | _files(path)).items():
        table.add_row(key, escape(value or "-"))
    return table


def _facts(package: ModelPackage) -> dict[str, str]:
    window, provenance, network = package.inference, package.provenance, package.network
    spacing = package.preprocessing.spacing_mm or ("keep",) * 3
    channels = "-".join(map(str, network.fields.get("channels", ())))
    parameters = sum(parameter.numel() for parameter in network.sketch().parameters())
    cases = f"on {provenance.training_cases} case(s)" if provenance.training_cases else ""
    return {
        "modalities": ", ".join(package.modalities),
        "grid": f"{_joined(spacing)} mm; tiles of {_joined(window.tile_size or ())}, overlap {window.overlap:g}",
        "mirrored axes": ", ".join(map(str, window.mirror_axes)),
        "network": f"{network.name} {network.spatial_dims}-D {channels}".rstrip() + f", {parameters:,} parameters",
        "networks": f"{len(package.weights_sha256)}" + (", behind a first stage" if package.coarse else ""),
        "folds": ", ".join(map(str, provenance.folds)),
        "trained": f"{cases} {provenance.dataset and f'of {provenance.dataset}'}".strip(),
        "imported from": "; ".join(
            f"{one.software}: {one.trainer}, {one.plans}, {one.configuration}, fold {one.fold}, "
            f"{one.epoch} epochs, checkpoint {one.checkpoint_sha256[:_SHOWN_DIGITS]}…"
            for one in provenance.imported
        ),
        "validation Dice": ", ".join(f"{name} {_dice(package, name)}" for name in provenance.validation_dice),
        "largest part kept": ", ".join(package.postprocessing.keep_largest),
    }


def _files(path: Path) -> dict[str, str]:
    from medseg.files import sha256_of
    from medseg.model import MODEL_FILE, find_package

    folder = find_package(path)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    checksum = sha256_of(folder / MODEL_FILE)[:_SHOWN_DIGITS]
    return {
        "size": f"{size / _MEGABYTE:,.1f} MB",
        "SHA-256": f"{checksum}… of {MODEL_FILE}, which has those of the weights",
    }


def _label_table(package: ModelPackage) -> Table:
    table = Table("value", "label", "code", "side")
    for label in package.labels:
        code = f"{label.code.scheme} {label.code.value} {label.code.meaning}" if label.code else "-"
        side = label.laterality.value if label.laterality else "-"
        table.add_row(str(label.index), escape(label.name), escape(code), side)
    for region in package.regions:
        table.add_row("+".join(map(str, region.labels)), escape(region.name), "-", "-")
    return table


def _dice(package: ModelPackage, name: str) -> str:
    dice = package.provenance.validation_dice[name]
    return "-" if dice is None else f"{dice:.3f}"


def _joined(sizes: Sequence[object]) -> str:
    return " x ".join(f"{size:g}" if isinstance(size, float) else str(size) for size in sizes)


def _say(text: str) -> None:
    console.print(escape(text), soft_wrap=True, highlight=False)
