"""Builds the kustomizations, and validates objects against the schemas of their kinds."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils as kubernetes_schemas

from source import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
KUBECTL = Path(sys.executable).parent / "kubectl"

# The oldest version whose schema has every field that is used, one that many run, and the newest whose schema is here.
VERSIONS = ["1.29", "1.33", "1.37"]

# What people may combine besides the existing overlays.
COMBINATIONS = {
    "all-with-keda": ["monitoring", "keda", "database-ca"],
    "all-with-hpa": ["monitoring", "hpa", "database-ca"],
}

# Without the cache, it reads a megabyte for each object.
kubernetes_schemas.schema_contents = functools.cache(kubernetes_schemas.schema_contents)


def kustomizations():
    """Every existing kustomization and every combination, by name."""
    there = {
        str(path.parent.relative_to(KUBERNETES)): path.parent
        for path in sorted(KUBERNETES.rglob("kustomization.yaml"))
        if yaml.safe_load(path.read_text())["kind"] == "Kustomization"
    }
    return there | {name: combine(name, parts) for name, parts in COMBINATIONS.items()}


def combine(name, components):
    """Writes an overlay of the base, the migration and some components."""
    path = ROOT / "target" / "deploy-tests" / name
    path.mkdir(parents=True, exist_ok=True)
    here = Path(os.path.relpath(KUBERNETES, path))
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "daymend",
        "resources": [str(here / "base"), str(here / "migrate")],
        "components": [str(here / "components" / component) for component in components],
    }
    (path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return path


@functools.cache
def build(path):
    built = subprocess.run([KUBECTL, "kustomize", path], capture_output=True, text=True)
    assert built.returncode == 0, f"{path} cannot be built: {built.stderr}"
    assert not built.stderr, f"{path}: {built.stderr}"
    return list(yaml.safe_load_all(built.stdout))


def is_custom(thing):
    return thing["apiVersion"].split("/")[0] in ("keda.sh", "monitoring.coreos.com")


def schema_problems(thing):
    """What the schemas find wrong: unknown fields, and values of the wrong type."""
    name = f"{thing['kind']}/{thing['metadata']['name']}"
    if is_custom(thing):
        for schema in custom_schemas(thing):
            for error in jsonschema.Draft202012Validator(schema).iter_errors(thing):
                yield f"{name}: {error.json_path}: {error.message}"
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(step) for step in error.path)
            yield f"{name}: Kubernetes {version}: {path}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{name}: {error.message}"


def custom_schemas(thing):
    """Our schema, which has only the fields that we use, and the published one if it is given."""
    yield yaml.safe_load((Path(__file__).parent / "schemas" / f"{thing['kind'].lower()}.yaml").read_text())
    if directory := os.environ.get("DAYMEND_CRDS"):
        yield published(Path(directory), thing["apiVersion"], thing["kind"])


@functools.cache
def published(directory, api_version, kind):
    """The schema of a CustomResourceDefinition in this directory, closed to unknown fields."""
    for path in sorted(directory.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())
        for version in definition["spec"]["versions"]:
            name = f"{definition['spec']['group']}/{version['name']}"
            if (name, definition["spec"]["names"]["kind"]) == (api_version, kind):
                schema = json.loads(json.dumps(version["schema"]["openAPIV3Schema"]))
                close(schema)
                schema["properties"]["metadata"] = {"type": "object"}
                return schema
    raise AssertionError(f"{directory} has no definition of {api_version} {kind}")


def close(schema):
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            close(value)
    elif isinstance(schema, list):
        for value in schema:
            close(value)
