"""The messages of `inference.proto`, in a pool of their own.

What protoc writes for Python enters one pool for the whole process, in which another client or server of the
same protocol would be refused as a duplicate; so the messages are made here of the file's descriptor. After a
change of the .proto: `python -m tidegate.serving.messages` (with grpcio-tools) writes the descriptor anew.
"""

from __future__ import annotations

import base64
import textwrap
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tidegate.serving import descriptor

PROTO = Path(__file__).with_name("inference.proto")

_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(base64.b64decode(descriptor.FILE))


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest = _message("ServerLiveRequest")
ServerLiveResponse = _message("ServerLiveResponse")
ServerReadyRequest = _message("ServerReadyRequest")
ServerReadyResponse = _message("ServerReadyResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ServerMetadataRequest = _message("ServerMetadataRequest")
ServerMetadataResponse = _message("ServerMetadataResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
ModelStreamInferResponse = _message("ModelStreamInferResponse")


def compiled(proto: Path) -> str:
    """Return the text of `descriptor.py` for a .proto; needs grpcio-tools, raises RuntimeError by protoc."""
    import tempfile

    from grpc_tools import protoc  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        if protoc.main(["protoc", f"-I{proto.parent}", f"--descriptor_set_out={out}", str(proto)]):
            raise RuntimeError(f"protoc refuses {proto}")
        (made,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    lines = textwrap.wrap(base64.b64encode(made.SerializeToString(deterministic=True)).decode(), 100)
    body = "\n".join(f'    "{line}"' for line in lines)
    return f'"""Made of {proto.name} by `python -m tidegate.serving.messages`."""\n\nFILE = (\n{body}\n)\n'


if __name__ == "__main__":
    Path(__file__).with_name("descriptor.py").write_text(compiled(PROTO))
