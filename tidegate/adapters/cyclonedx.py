"""CycloneDX: a release's bill of materials as JSON 1.6, the same bytes for the same release."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.core.release import ReleaseRecord
from tidegate.errors import Fatal


@dataclass(frozen=True)
class Package:
    """One pinned package: `licence` is an SPDX expression, or None where nobody knows."""

    name: str
    version: str
    licence: str | None


@dataclass(frozen=True)
class System:
    """What an image's base brings along: its distribution, and (name, version, architecture) of packages."""

    distribution: str  # debian, ubuntu
    version: str
    packages: Sequence[tuple[str, str, str]]


def bill(
    record: ReleaseRecord,
    packages: Sequence[Package],
    files: Mapping[str, str],
    properties: Mapping[str, str],
    *,
    image: str = "",
    system: System | None = None,
) -> str:
    """Return the bill of materials of a release: its packages and its model, whose `files` have a sha256.

    With the name of an `image` it is that image's, `system` being what is below. It has no time, and its
    serial number comes from what it is of. Raises Fatal when CycloneDX's own validator does not take it.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    service = Component(
        name=image or record.model,
        version=record.id,
        type=ComponentType.CONTAINER if image else ComponentType.APPLICATION,
        bom_ref=f"image:{image}" if image else f"release:{record.id}",
        properties=_properties(properties),
    )
    parts = [_model(record, files), *map(_library, packages), *_below(system)]
    of = f"urn:tidegate:image:{image}" if image else f"urn:tidegate:release:{record.model}:{record.id}"
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, of),
        metadata=BomMetaData(component=service),
        components=parts,
    )
    bom.register_dependency(service, parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"].pop("timestamp", None)  # the same release, the same bytes
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if problem := invalid(text):
        raise Fatal(f"the bill of materials is not CycloneDX 1.6: {problem}", "Report this as a bug.")
    return text


def invalid(text: str) -> str:
    """Return what CycloneDX's strict validator says against a JSON 1.6 document; nothing when it is valid."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return str(getattr(problem, "data", problem)) if problem else ""


def _library(package: Package) -> Any:
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import LicenseExpression
    from packageurl import PackageURL

    purl = PackageURL("pypi", None, package.name, package.version)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        licenses=[LicenseExpression(package.licence)] if package.licence else None,
    )


def _below(system: System | None) -> list[Any]:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    if system is None:
        return []
    name, version = system.distribution, system.version
    found = [
        Component(
            name=name, version=version, type=ComponentType.OPERATING_SYSTEM, bom_ref=f"os:{name}-{version}"
        )
    ]
    for package, number, architecture in system.packages:
        about = {"arch": architecture, "distro": f"{name}-{version}"}
        purl = PackageURL("deb", name, package, number, qualifiers=about)
        found.append(
            Component(name=package, version=number, type=ComponentType.LIBRARY, bom_ref=str(purl), purl=purl)
        )
    return found


def _model(record: ReleaseRecord, files: Mapping[str, str]) -> Any:
    from cyclonedx.model.component import Component, ComponentType

    reference = f"model:{record.registry.name}:{record.registry.version}"
    inside = [
        Component(name=name, type=ComponentType.FILE, bom_ref=f"{reference}/{name}", hashes=[_sha256(digest)])
        for name, digest in sorted(files.items())
    ]
    return Component(
        name=record.registry.name,
        version=str(record.registry.version),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=reference,
        components=inside,
        properties=_properties({"tidegate:artifact": record.artifact}),
    )


def _sha256(digest: str) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))


def _properties(values: Mapping[str, str]) -> list[Any]:
    from cyclonedx.model import Property

    return [Property(name=name, value=value) for name, value in sorted(values.items())]
