"""The house stands: imports point down, heavy ones stay where they may be, files and functions stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "medseg"
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = {
    1: ["cli", "__main__"],
    2: ["train", "segment", "batch", "evaluate", "report", "selection", "outputs"],
    3: [
        "config", "model", "segmenter", "loading", "inference", "tensorfile", "data", "networks", "dicom", "nifti",
        "nifti_header", "reading", "recipe", "phantom", "shipped", "training", "evaluation", "label_files",
        "device", "environment", "plan", "provenance", "ensemble", "study", "nnunet", "quality", "packages",
        "merged", "nifti_proof",
    ],
    4: [
        "crf", "losses", "metrics", "postprocess", "scores", "bootstrap", "cleanup", "components", "measurements",
        "diameter", "proof",
    ],
    5: [
        "labels", "regions", "volume", "findings", "files", "yamlfile", "registry", "threads", "extras", "maker",
        "sides",
    ],
    6: ["errors"],
}  # fmt: skip
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}
SAME_LAYER_ALLOWED = {("batch", "segment"), ("batch", "outputs"), ("outputs", "report")}

DICOM_LIBRARIES = {"pydicom", "highdicom", "pynetdicom"}
HEAVY = {"torch", "monai", "nibabel", "pydicom", "matplotlib", "SimpleITK", "numpy", "pydantic", "ruamel"}
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 50
USUAL_LINES_OF_A_FUNCTION = 30
USUAL_SHARE = 0.9


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The file or folder directly below medseg that a module lives in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(tree: ast.AST, *, hidden: bool | None = None) -> list[tuple[str, int]]:
    """Modules imported anywhere, or only inside (or outside) functions; type-checking blocks left out."""
    found = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if hidden is None or hidden == inside:
            if isinstance(node, ast.Import):
                found.extend((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.extend((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    walk(tree, False)
    return found


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
MODULES = {module_of(path): path for path in FILES}


def inner_imports(path: Path, **where) -> list[str]:
    """The medseg modules that a file imports."""
    names = [name for name, _ in imports(TREES[path], **where) if name.split(".")[0] == "medseg"]
    return [name if name in MODULES else name.rpartition(".")[0] for name in names]


def test_every_room_has_a_layer():
    rooms = {room_of(module) for module in MODULES} - {""}
    assert rooms == set(LAYER_OF)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path):
    room = room_of(module_of(path))
    for module in inner_imports(path):
        other = room_of(module)
        if not room or not other or room == other:
            continue
        down = LAYER_OF[other] > LAYER_OF[room]
        within = LAYER_OF[other] == LAYER_OF[room] and (LAYER_OF[room] != 2 or (room, other) in SAME_LAYER_ALLOWED)
        assert down or within, f"{module_of(path)} imports {module}"


def test_there_is_no_import_cycle():
    graph = {m: {x for x in inner_imports(p, hidden=False) if x != m} for m, p in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_hide_in_functions_only_in_commands(path):
    if room_of(module_of(path)) == "cli":
        assert not {name.split(".")[0] for name, _ in imports(TREES[path], hidden=False)} & HEAVY
    else:
        assert imports(TREES[path], hidden=True) == []


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_dicom_libraries_stay_in_their_room(path):
    libraries = {name.split(".")[0] for name, _ in imports(TREES[path])}
    if room_of(module_of(path)) != "dicom":
        assert not libraries & DICOM_LIBRARIES
    assert not libraries & {"pickle", "torchvision", "ignite", "lightning"}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_says_one_thing(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_A_FILE


def test_functions_are_short():
    sizes = {
        f"{module_of(path)}:{node.name}": lines_of(node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: size for name, size in sizes.items() if size > MOST_LINES_OF_A_FUNCTION}
    usual = sum(size <= USUAL_LINES_OF_A_FUNCTION for size in sizes.values())
    assert usual / len(sizes) >= USUAL_SHARE


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno - body[0].lineno + 1) if body else 0


def test_the_guards_can_fail():
    tree = ast.parse("import torch\ndef f():\n    from medseg.cli import app\n")
    assert imports(tree, hidden=False) == [("torch", 1)]
    assert imports(tree, hidden=True) == [("medseg.cli.app", 3)]
    assert len(FILES) > 30
