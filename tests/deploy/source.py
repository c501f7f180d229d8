"""What daymend's own source says: its commands, options, environment variables and metrics."""

import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC = Path(os.environ.get("DAYMEND_SRC", ROOT / "src"))
CLI = "\n".join(path.read_text() for path in sorted((SRC / "cli").rglob("*.rs")))

# The commands that keep running, and serve probes and metrics.
SERVICES = {"scheduler", "worker", "serve"}


def found(what, pattern, text, flags=0):
    """All matches of a pattern. There has to be one: the form of the source may have changed."""
    matches = re.findall(pattern, text, flags)
    assert matches, f"{what}: nothing in {SRC} looks like {pattern}"
    return matches


def kebab(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower().replace("_", "-")


def commands():
    body = found("the commands", r"enum Command \{(.*?)\n\}", (SRC / "cli" / "mod.rs").read_text(), re.S)[0]
    return {kebab(name) for name in found("the commands", r"^    ([A-Z]\w*)[({,]", body, re.M)}


def environment():
    return set(found("environment variables", r'env = "(\w+)"', CLI))


def options():
    arguments = found("the options", r"#\[arg\((.*?)\)\]\s*(?:pub(?:\([a-z]+\))? )?(\w+):", CLI, re.S)
    return {"--" + kebab(field) for attribute, field in arguments if re.search(r"\blong\b", attribute)}


def pages():
    return set(found("the pages", r'\.route\("(/\w+)"', (SRC / "http.rs").read_text()))


def grace_seconds():
    return seconds(found("--grace", r'env = "DAYMEND_GRACE", default_value = "([^"]*)"', CLI)[0])


def metrics():
    """The labels of every metric by its name, including the series of histograms."""
    text = (SRC / "metrics" / "catalogue.rs").read_text()
    entries = found("metrics", r'= \w+ Type::(\w+)(?:\(\w+\))?, "(daymend_\w+)", \[([^\]]*)\]', text)
    known = {}
    for kind, name, labels in entries:
        labels = set(re.findall(r'"(\w+)"', labels))
        if kind == "Histogram":
            known[f"{name}_bucket"] = labels | {"le"}
            known[f"{name}_sum"] = known[f"{name}_count"] = labels
        else:
            known[name] = labels
    return known


def version():
    return tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]


def seconds(text):
    """Parses a duration as daymend does: 25s, 1m 30s."""
    units = {"s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+)\s*([smh])", text)
    assert parts and re.fullmatch(r"(\s*\d+\s*[smh])+\s*", text), f"{text!r} is no time"
    return sum(int(number) * units[unit] for number, unit in parts)


def documented():
    """Secrets and ConfigMaps that deploy/README.md says to create: {(kind, name): keys}."""
    text = (ROOT / "deploy" / "README.md").read_text().replace("\\\n", " ")
    known = {}
    for kind, name, rest in re.findall(r"create (secret generic|configmap) (\S+)(.*)", text):
        keys = known.setdefault(("Secret" if kind.startswith("secret") else "ConfigMap", name), set())
        keys.update(re.findall(r"--from-(?:file|literal)=([^=\s]+)=", rest))
    return known
