"""Commands on container images: build a release's, and make a base where no registry can be reached."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate import wiring
from tidegate.errors import Refused

if TYPE_CHECKING:
    from tidegate.core.release import ReleaseRecord
    from tidegate.images import Making
    from tidegate.imaging import Order, Tools

Model = Annotated[str, typer.Argument(help="The model's name, as in params.yaml; leave it out with --all.")]
Release = Annotated[str, typer.Option(help="A release's id; by default the one that was packaged here last.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Variant(StrEnum):
    """What an image runs on."""

    CPU = "cpu"
    GPU = "gpu"


class Program(StrEnum):
    """What builds."""

    PODMAN = "podman"
    DOCKER = "docker"


Which = Annotated[Variant, typer.Option(help="What the image runs on.")]
Engine = Annotated[Program | None, typer.Option(help="What builds; by default as platform.yaml says.")]
Base = Annotated[str, typer.Option(help="Build on this image instead of the one in platform.yaml.")]
Push = Annotated[str, typer.Option(help="Copy the image there, e.g. registry.example.com/team/model:1.")]
File = Annotated[Path | None, typer.Option(help="Only write the container file there; build nothing.")]
All = Annotated[bool, typer.Option("--all", help="What was packaged here, as environments run containers.")]
Again = Annotated[bool, typer.Option("--again", help="Build what is installed anew, too.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("image")(image)
    app.command("base-image")(base_image)


def image(
    context: typer.Context,
    model: Model = "",
    variant: Which = Variant.CPU,
    release: Release = "",
    engine: Engine = None,
    base: Base = "",
    push: Push = "",
    build_file: File = None,
    again: Again = False,
    every: All = False,
    as_json: Json = False,
) -> None:
    """Build the container image of a release, and write its digest beside the release's record.

    With --all of each model that was packaged here, in the variants that environments run; of none, where
    they run processes. Example: tidegate image my-model --variant cpu
    """
    if every == bool(model):
        raise Refused("an image is of a model, or --all are", "Name one model, or give --all without one.")

    def say(line: str) -> None:
        typer.echo(line, err=as_json)

    if every:
        _only(context, {"again", "as_json"}, "--all", "builds what environments run")
        found = _all(say, again)
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        return
    if build_file:
        _only(context, set(context.params) - {"push", "again"}, "--build-file", "builds nothing")
    from tidegate import images, imaging

    checkout = wiring.find_checkout()
    making = images.making(wiring.platforms(checkout), str(variant), engine=str(engine or ""), base=base)
    order, tools = _ready(checkout, imaging.recorded(checkout, model, release), str(variant), making, again)
    told = _write(order, tools, say, build_file) if build_file else _build(order, tools, say, push)
    if as_json:
        typer.echo(json.dumps(told, indent=2))


def _only(context: typer.Context, honoured: Collection[str], chosen: str, does: str) -> None:
    """Refuse options that were given and would be ignored: nobody would notice that nothing was pushed."""
    ignored = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        given = source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
        if given and option.name not in honoured and chosen not in option.opts:
            ignored.append(option.opts[0])
    if ignored:
        names = ", ".join(ignored)
        raise Refused(f"{chosen} {does}, and would ignore {names}", f"Leave out {names}, or {chosen}.")


def _ready(
    checkout: Path, record: ReleaseRecord, variant: str, making: Making, again: bool
) -> tuple[Order, Tools]:
    """Return what shall be built, its Bento verified, and what that asks of others."""
    from tidegate import bentos, imaging

    where, spec = wiring.home(checkout), wiring.platform(checkout, "staging")
    bento = bentos.verify(wiring.bentos_path(spec, where), record)
    order = imaging.Order(record, variant, bento, checkout, making.base, again)
    return order, wiring.image_tools(making, where)


def _write(order: Order, tools: Tools, say: Callable[[str], None], path: Path) -> dict[str, object]:
    """Write what would be built; returns that as JSON tells it."""
    from tidegate import imaging
    from tidegate.files import write_atomic

    write_atomic(path, imaging.build_file(order, tools))
    say(f"written   {path}")
    return {"variant": order.variant, "build_file": str(path)}


def _build(order: Order, tools: Tools, say: Callable[[str], None], push: str = "") -> dict[str, object]:
    """Build an image, record it and copy it to where it shall go; returns it as JSON tells it."""
    from tidegate import imaging

    built = imaging.make(order, tools, say)
    recorded, bill = imaging.write(order, built)
    if push:
        tools.builder.push(order.name, push)
        say(f"pushed    {push}")
    say(f"recorded  {recorded}; bill of materials {bill}")
    about = {"bytes": built.size, "bill_of_materials": bill}
    return imaging.told(order.record, order.variant, built.reference, **about)


def _all(say: Callable[[str], None], again: bool) -> list[dict[str, object]]:
    """Build what environments run, of each model that was packaged here last; nothing for processes."""
    from tidegate import images, imaging, promotion

    checkout = wiring.find_checkout()
    specs = wiring.platforms(checkout)
    variants = sorted({images.variant_of(spec) for spec in specs.values()} - {""})
    # All of them first: nothing is built where the last one's settings contradict each other.
    makings = {variant: images.making(specs, variant) for variant in variants}
    records = [imaging.recorded(checkout, model) for model in promotion.built_models(checkout) if variants]
    if not variants:
        say("every environment runs processes: no image is built")
    elif not records:
        say("nothing was packaged here, so no image is built: `dvc repro` packages what passes its gates")
    found = []
    for record in records:
        for variant, making in makings.items():
            here = None if again else images.kept(checkout, record, variant, wiring.builder(making))
            if here is None:
                found.append(_build(*_ready(checkout, record, variant, making, again), say))
            else:
                say(f"image     {images.image_name(record, variant)}, recorded and here")
                found.append(imaging.told(record, variant, here))
    return found


def base_image(again: Again = False, engine: Engine = None, as_json: Json = False) -> None:
    """Make a base for images by debootstrap, where no registry can be reached; one that is here is kept.

    Example: tidegate base-image
    """
    from tidegate import images
    from tidegate.adapters import debian

    name = debian.base_name()
    specs = wiring.platforms(wiring.find_checkout())
    builder = wiring.builder(images.making(specs, engine=str(engine or ""), base=name))
    made = debian.make(builder, again=again)
    if as_json:
        typer.echo(json.dumps({"name": name, "id": made.id, "bytes": made.size}, indent=2))
        return
    typer.echo(f"base      {name}, {made.id[:19]}…, {made.size / 1e6:.0f} MB")
    typer.echo(f"Use it: `--base {name}`, or `images: {{base: {name}}}` in envs/platform.yaml.")
