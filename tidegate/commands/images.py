"""Commands on container images: build a release's, and make a base where no registry can be reached."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tidegate import wiring
from tidegate.config import ENVIRONMENTS
from tidegate.errors import Refused

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
Engine = Annotated[Program | None, typer.Option(help="What builds; by default what platform.yaml says.")]
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
        raise Refused("an image is of a model, or --all are", "Name the model, as params.yaml does.")
    if every:
        _all(as_json)
        return
    from tidegate import bentos, imaging
    from tidegate.files import write_atomic

    checkout = wiring.find_checkout()
    where, spec = wiring.home(checkout), wiring.platform(checkout, "staging")
    record = imaging.recorded(checkout, model, release)
    bento = bentos.verify(wiring.bentos_path(spec, where), record)
    default = spec.images.base if variant is Variant.CPU else spec.images.gpu_base
    order = imaging.Order(record, str(variant), bento, checkout, base or default, again)
    tools = wiring.image_tools(spec, where, _engine(checkout, engine))

    def say(line: str) -> None:
        typer.echo(line, err=as_json)

    if build_file is not None:
        write_atomic(build_file, imaging.build_file(order, tools))
        say(f"written   {build_file}")
        if as_json:
            typer.echo(json.dumps({"variant": str(variant), "build_file": str(build_file)}))
        return
    built = imaging.make(order, tools, say)
    paths = imaging.write(order, built)
    if push:
        tools.builder.push(order.name, push)
        say(f"pushed    {push}")
    say(f"recorded  {paths[0]}; bill of materials {paths[1]}")
    if as_json:
        typer.echo(imaging.told(built, str(variant), paths))


def _engine(checkout: Path, named: Program | None) -> str:
    """Return what builds: what was named, else as the environments' platforms say together."""
    return named or wiring.image_engine(wiring.platform(checkout, name) for name in ENVIRONMENTS)


def _all(as_json: bool) -> None:
    """Build what environments run, of each model that was packaged here last; nothing for processes."""
    from tidegate import images, imaging, promotion

    checkout = wiring.find_checkout()
    specs = [wiring.platform(checkout, name) for name in ENVIRONMENTS]
    variants = {"gpu" if spec.workloads.gpus else "cpu" for spec in specs if wiring.in_containers(spec)}
    if not variants:
        typer.echo("every environment runs processes: no image is built", err=as_json)
    builder = wiring.builder(specs[0], wiring.image_engine(specs))
    for model in promotion.built_models(checkout) if variants else ():
        record = imaging.recorded(checkout, model)
        for variant in sorted(variants):
            if images.kept(checkout, record, variant, builder):
                typer.echo(f"image     {images.image_name(record, variant)}, recorded and here", err=as_json)
            else:
                image(model, Variant(variant), as_json=as_json)


def base_image(again: Again = False, engine: Engine = None, as_json: Json = False) -> None:
    """Make a base for images by debootstrap, where no registry can be reached; one that is here is kept.

    Example: tidegate base-image
    """
    from tidegate.adapters import debian

    checkout = wiring.find_checkout()
    builder = wiring.builder(wiring.platform(checkout, "staging"), _engine(checkout, engine))
    made = debian.make(builder, again=again)
    name = debian.base_name()
    if as_json:
        typer.echo(json.dumps({"name": name, "id": made.id, "bytes": made.size}, indent=2))
        return
    typer.echo(f"base      {name}, {made.id[:19]}…, {made.size / 1e6:.0f} MB")
    typer.echo(f"Use it: `--base {name}`, or `images: {{base: {name}}}` in envs/platform.yaml.")
