"""Orthanc, a real image store, with its DICOMweb plugin: in a network and with a storage folder of its own."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from tests.tools.namespace import Namespace
from tests.tools.programs import need

_DICOM_PORT, _HTTP_PORT = 4242, 8042
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_PATIENCE_S = 30.0
_BOUNDARY = "an-object-begins-here"


class Orthanc:
    """A running Orthanc."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._connection = _Connection(namespace)

    def c_store(self, paths: Iterable[Path]) -> None:
        """Send files by C-STORE (PS3.4 B) with dcmtk's dcmsend; `count` says how many were taken.

        It looks up how each file is compressed, which storescu must be told, and may send label maps, which dcmtk
        does not know.
        """
        need("dcmsend")
        options = ("--no-uid-checks", "--decompress-never")
        answer = self._namespace.run("dcmsend", *options, "127.0.0.1", str(_DICOM_PORT), *paths)
        assert answer.returncode == 0, answer.stdout + answer.stderr

    def stow(self, paths: Iterable[Path]) -> None:
        """Send files by STOW-RS (PS3.18 10.5) in one request; every one must be taken."""
        parts = [path.read_bytes() for path in paths]
        head = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(head + part + b"\r\n" for part in parts) + f"--{_BOUNDARY}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        answer = json.loads(self._ask("POST", "/dicom-web/studies", body, headers)[1])
        assert not answer["00081198"].get("Value"), answer  # FailedSOPSequence
        assert len(answer["00081199"]["Value"]) == len(parts)  # ReferencedSOPSequence

    def file_of(self, sop_instance_uid: str) -> bytes:
        """Return an object as Orthanc's own interface hands it out."""
        (identifier,) = self._json("POST", "/tools/lookup", sop_instance_uid.encode())
        return self._ask("GET", f"/instances/{identifier['ID']}/file")[1]

    def wado(self, study_uid: str, series_uid: str) -> list[bytes]:
        """Return the objects of a series by WADO-RS (PS3.18 10.4), in the transfer syntaxes they are stored in."""
        path = f"/dicom-web/studies/{study_uid}/series/{series_uid}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        headers, body = self._ask("GET", path, headers={"Accept": accept})
        whole = BytesParser().parsebytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body)
        return [part.get_payload(decode=True) for part in whole.get_payload()]  # type: ignore[union-attr,misc]

    def count(self) -> int:
        """Return how many objects are stored."""
        return int(self._json("GET", "/statistics")["CountInstances"])

    def empty(self) -> None:
        """Delete all that is stored."""
        for study in self._json("GET", "/studies"):
            self._ask("DELETE", f"/studies/{study}")

    def plugins(self) -> list[str]:
        """Return the names of the plugins that are loaded."""
        return [str(name) for name in self._json("GET", "/plugins")]

    def _json(self, method: str, path: str, body: bytes | None = None) -> Any:
        return json.loads(self._ask(method, path, body)[1])

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[Message, bytes]:
        answer = self._request(method, path, body, headers or {})
        content = answer.read()
        assert answer.status == http.client.OK, f"{method} {path}: {answer.status} {content[:500]!r}"
        return answer.headers, content

    def _request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Ask, once more if Orthanc hung up in the meantime."""
        try:
            self._connection.request(method, path, body, headers)
            return self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError):
            self._connection.close()
            self._connection.request(method, path, body, headers)
            return self._connection.getresponse()


class _Connection(http.client.HTTPConnection):
    """HTTP into a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        super().__init__("127.0.0.1", _HTTP_PORT, timeout=_PATIENCE_S)
        self._namespace = namespace

    def connect(self) -> None:
        """Let the namespace make the socket."""
        self.sock: socket.socket = self._namespace.connect(_HTTP_PORT)


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run an Orthanc that keeps everything in a folder, and end it; skip the test where it cannot run."""
    need("Orthanc")
    settings = folder / "orthanc.json"
    settings.write_text(json.dumps(_settings(folder)), encoding="utf-8")
    namespace = Namespace.start(["Orthanc", settings], folder / "orthanc.log")
    try:
        _wait(namespace, folder / "orthanc.log")
        yield Orthanc(namespace)
    finally:
        namespace.stop()


def _settings(folder: Path) -> dict[str, Any]:
    return {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": _HTTP_PORT,
        "DicomPort": _DICOM_PORT,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "UnknownSopClassAccepted": True,  # label maps are younger than Debian's Orthanc
        "Plugins": [str(_PLUGIN)] if _PLUGIN.exists() else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }


def _wait(namespace: Namespace, log: Path) -> None:
    """Return as soon as both ports are listened on."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        assert namespace.is_running, f"Orthanc ended: {log.read_text(errors='replace')[-2000:]}"
        try:
            for port in (_DICOM_PORT, _HTTP_PORT):
                namespace.connect(port).close()
        except ConnectionError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"Orthanc does not listen: {log.read_text(errors='replace')[-2000:]}")
