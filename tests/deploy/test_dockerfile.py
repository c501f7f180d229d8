"""The Dockerfile passes hadolint, and agrees with the sources and the manifests."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import checks
import manifests
import source
from source import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IGNORED = ROOT / "deploy" / "Dockerfile.dockerignore"


def instructions():
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def after_last_from():
    told = instructions()
    last = max(at for at, (word, _) in enumerate(told) if word == "FROM")
    return told[last][1], told[last + 1 :]


def copied():
    """The paths that are copied from the repository."""
    arguments = [rest.split() for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    return [path for words in arguments for path in words[:-1]]


def lint(path):
    hadolint = Path(sys.executable).parent / "hadolint"
    return subprocess.run([hadolint, "--failure-threshold", "style", path], capture_output=True, text=True)


def test_hadolint_finds_nothing():
    linted = lint(DOCKERFILE)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize(
    "fault", [("bookworm AS", "bookworm@ AS"), ("FROM scratch", "FROM debian:latest"), ("WORKDIR /src", "WORKDIR src")]
)
def test_hadolint_finds_a_planted_fault(fault, tmp_path):
    text = DOCKERFILE.read_text()
    assert fault[0] in text
    (tmp_path / "Dockerfile").write_text(text.replace(*fault))
    assert lint(tmp_path / "Dockerfile").returncode != 0


def test_the_image_is_one_binary_of_no_rights():
    base, told = after_last_from()
    said = dict(told)
    assert base == "scratch"
    assert said["USER"] == "65532:65532"
    assert said["ENTRYPOINT"] == '["/usr/local/bin/daymend"]'
    assert said["EXPOSE"] == "9187"
    assert "RUN" not in said and "HEALTHCHECK" not in said
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in said["LABEL"]


def test_the_pods_are_the_images_user():
    (user,) = [rest for word, rest in instructions() if word == "USER"]
    for path in manifests.kustomizations().values():
        for _, _, pod in checks.containers(manifests.build(path)):
            context = pod["securityContext"]
            assert user == f"{context['runAsUser']}:{context['runAsGroup']}"


def test_its_variables_are_read():
    told = [rest for word, rest in after_last_from()[1] if word == "ENV"]
    names = set(re.findall(r"(\w+)=", " ".join(told)))
    assert names and names <= source.environment()


def test_its_version_and_toolchain_are_the_packages():
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    defaults = dict(rest.split("=") for word, rest in instructions() if word == "ARG")
    assert defaults["VERSION"] == package["version"]
    number = lambda version: [int(part) for part in version.split(".")]
    assert number(defaults["RUST_VERSION"]) >= number(package["rust-version"])


def test_it_has_the_authorities_that_https_needs():
    made = " ".join(rest for word, rest in instructions() if word == "RUN")
    assert "cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/" in made


def test_what_is_copied_is_there_and_not_ignored():
    ignored = [line for line in IGNORED.read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    assert sorted(line.removeprefix("!") for line in ignored[1:]) == sorted(copied())
    for path in copied():
        assert (ROOT / path).exists()


def test_what_is_compiled_in_is_copied():
    for path in (ROOT / "src").rglob("*.rs"):
        for name in re.findall(r'include_(?:str|bytes)!\(\s*(?:concat!\(\s*)?"([^"]+)"', path.read_text()):
            included = (path.parent / name).resolve().relative_to(ROOT)
            assert any(included.is_relative_to(path) for path in copied()), f"{path} includes {name}"


def test_every_target_of_the_package_has_a_source_in_the_image():
    """Cargo requires the source file of each target, even of those that it does not build."""
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())
    made = " ".join(rest for word, rest in instructions() if word == "RUN")
    for kind in ("test", "bench", "example", "bin"):
        for target in package.get(kind, []):
            assert target["path"] in made, f"{target['path']} has to be made in the Dockerfile"
