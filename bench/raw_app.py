"""The peer of `service-raw`: flight-delay by hand, nothing between the model and the server.

The same model, the same features, msgspec for the same request; no request id, no counts, no log, no version,
no limits, nothing that a person could operate. Run by `uvicorn bench.raw_app:app`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.peer_model import name, session, vocabulary
from models.flight_delay import features
from services.flight_delay.schema import Flight

decode = msgspec.json.Decoder(Flight).decode
encode = msgspec.json.Encoder().encode


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with the probability of a late arrival."""
    if scope["type"] == "lifespan":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    rows = features.compute([msgspec.to_builtins(decode(body))], vocabulary)
    probability = float(session.run(["probabilities"], {name: rows})[0][0, 1])
    content = encode({"probability": probability, "late": probability >= 0.5})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
