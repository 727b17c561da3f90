"""The peer of `service-throughput`: flight-delay as anyone would write it in bare FastAPI.

The same model, the same features, pydantic for the same request. Run by `uvicorn bench.peer_app:app`.
"""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from bench.peer_model import name, session, vocabulary
from models.flight_delay import features


class Plane(BaseModel):
    """The aircraft."""

    year: int | None = None
    seats: int | None = None


class Weather(BaseModel):
    """The hour's weather at the origin."""

    temp: float | None = None
    dewp: float | None = None
    humid: float | None = None
    wind_dir: float | None = None
    wind_speed: float | None = None
    wind_gust: float | None = None
    precip: float | None = None
    pressure: float | None = None
    visib: float | None = None


class Recent(BaseModel):
    """What was so lately."""

    carrier_late: float | None = None
    route_late: float | None = None
    plane_late: float | None = None


class Flight(BaseModel):
    """One request."""

    date: str
    sched_dep_time: str
    carrier: str
    flight: int
    tailnum: str | None = None
    origin: str
    dest: str
    distance: float
    plane: Plane | None = None
    weather: Weather | None = None
    recent: Recent | None = None


app = FastAPI()


@app.post("/predict")
async def predict(flight: Flight) -> dict[str, float | bool]:
    """Return the probability of a late arrival."""
    rows = features.compute([flight.model_dump()], vocabulary)
    probability = float(session.run(["probabilities"], {name: rows})[0][0, 1])
    return {"probability": probability, "late": probability >= 0.5}
