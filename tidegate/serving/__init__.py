"""The shell around a model's service; it knows no model, and travels inside every Bento.

A service's author writes what a request and an answer are (msgspec Structs), how to load, how features
are computed, and what to answer of them. Example:

    @bentoml.service(name="my_model", service_class=ModelService)
    class MyModel:
        request, response, feature_names = Visit, Chance, features.FEATURES
        score, decision = "chance", "buys"                       # what releases are compared by, if any
        def __init__(self) -> None:
            folder = artifact(Path(__file__), "my-model")
            self.model = OnnxModel(folder, settings(Path(__file__)))
        def features(self, visit: Visit) -> NDArray:             # one request → [1, features]
            return features.compute(...)
        def predict(self, rows: NDArray) -> dict[str, NDArray]:  # [n, features] → n answers, by column
            chance = self.model(rows)[..., -1]
            return {"chance": chance, "buys": chance >= 0.5}

BentoML stays the service: its life cycle, `/livez`, `/readyz`, `/metrics` and packaging. What is asked by the
thousand is answered in front of its middlewares, which cost more than the model itself: see `app`.

- `artifact`: the model's files, verified; `provider`: what runs them, the CPU or a GPU, by ONNX Runtime
- `app`: the ASGI application, what each path does, from bytes to bytes
- `engine`: from a checked request to a counted answer, the same for every protocol
- `settings`: what `services/<model>/settings.yaml` may say
- `v2`, `grpc_server`: the Open Inference Protocol v2 over HTTP and gRPC, both by `inference` and `tensors`;
  its messages (`grpc_tensors`) are `messages`, made of `inference.proto` by way of `descriptor`
- `online`: what a request does not say, looked up in one round trip (`redis_link`: of a Redis)
- `many`, `columns`, `arrow`: many rows in one request, by column (`arrays`), and what is looked up for them
  (`online_many`)
- `turn`, `batching`, `cache`: computed at once, computed beside the loop, or kept
- `request`, `description`: from bytes to a checked request; what is published as OpenAPI
- `ready`: what `/readyz` says of that; `gpu`: what the GPU goes through, by NVML
- `measuring`, `answered`: what is counted, and what is written down to be compared
- `predictions`: the log of predictions; `spool`, by which both are written off the way of an answer

Imports only what a Bento brings along, and nothing else of this package but `files`.
"""

from tidegate.serving.app import ModelService, Predictions, describe
from tidegate.serving.artifact import OnnxModel, artifact
from tidegate.serving.online import Lookup, Precomputed
from tidegate.serving.settings import Settings, settings

__all__ = [
    "Lookup",
    "ModelService",
    "OnnxModel",
    "Precomputed",
    "Predictions",
    "Settings",
    "artifact",
    "describe",
    "settings",
]
