"""Every overlay builds, and passes the schemas and the checks."""

import subprocess

import pytest
import yaml

import checks
import manifests
import source

BUILDS = manifests.kustomizations()


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("check", checks.CHECKS)
def test_it_holds(name, check):
    objects = manifests.build(BUILDS[name])
    assert objects
    assert list(checks.CHECKS[check](objects)) == []


def test_there_are_all_the_overlays():
    assert {"base", "migrate", "overlays/monitoring", "overlays/keda", "overlays/hpa"} <= BUILDS.keys()
    parts = {path.parent.name for path in (manifests.KUBERNETES / "components").glob("*/kustomization.yaml")}
    assert parts == {part for combination in manifests.COMBINATIONS.values() for part in combination}


def test_every_manifest_is_part_of_a_kustomization():
    for path in manifests.KUBERNETES.rglob("*.yaml"):
        kustomization = path.parent / "kustomization.yaml"
        told = kustomization.read_text() + "".join(other.read_text() for other in path.parent.glob("*.yaml") if other != path)
        assert path.name in ("kustomization.yaml",) or path.name in told, f"{path} is used nowhere"


def test_the_base_is_two_schedulers_and_two_workers():
    deployments = {
        thing["metadata"]["name"]: thing["spec"]["replicas"]
        for thing in checks.of(manifests.build(BUILDS["base"]), "Deployment")
    }
    assert deployments == {"daymend-scheduler": 2, "daymend-worker": 2}


def test_the_migration_has_rights_that_nothing_else_has():
    def secrets(name):
        return {
            entry["valueFrom"]["secretKeyRef"]["name"]
            for _, container, _ in checks.containers(manifests.build(BUILDS[name]))
            for entry in container["env"]
            if "secretKeyRef" in entry.get("valueFrom", {})
        }

    assert secrets("base") == {"daymend-database"}
    assert secrets("migrate") == {"daymend-database-migration"}


def test_the_alerts_are_the_ones_that_promtool_tests(tmp_path):
    monitoring = manifests.KUBERNETES / "components" / "monitoring"
    rules = manifests.ROOT / "deploy" / "prometheus" / "rules.yml"
    wanted = yaml.safe_load(rules.read_text())
    for name in ("overlays/monitoring", "overlays/keda", "overlays/hpa"):
        (rule,) = checks.of(manifests.build(BUILDS[name]), "PrometheusRule")
        assert rule["spec"] == wanted, "run deploy/kubernetes/components/monitoring/generate"
    # The comments have to be identical, too.
    copied = tmp_path / "deploy" / "kubernetes" / "components" / "monitoring"
    copied.mkdir(parents=True)
    (tmp_path / "deploy" / "prometheus").mkdir()
    (tmp_path / "deploy" / "prometheus" / "rules.yml").write_text(rules.read_text())
    (copied / "generate").write_text((monitoring / "generate").read_text())
    subprocess.run(["sh", copied / "generate"], check=True)
    assert (copied / "prometheusrule.yaml").read_text() == (monitoring / "prometheusrule.yaml").read_text()


def test_what_the_source_says_was_read():
    assert {"scheduler", "worker", "serve", "migrate"} <= source.commands()
    assert {"--grace", "--http-addr", "--database-url", "--once"} <= source.options()
    assert {"DAYMEND_DATABASE_URL", "DAYMEND_HTTP_ADDR", "RUST_LOG"} <= source.environment()
    assert {"/metrics", *checks.PROBES.values()} <= source.pages()
    assert source.grace_seconds() == 25
    assert source.metrics()["daymend_jobs"] == {"kind", "state"}
    assert source.metrics()["daymend_job_duration_seconds_bucket"] == {"kind", "le"}
    assert {("Secret", "daymend-database"), ("Secret", "daymend-database-migration")} <= source.documented().keys()


def test_every_path_that_the_readme_names_is_there():
    text = (manifests.ROOT / "deploy" / "README.md").read_text()
    for path in set(source.re.findall(r"(?<![\w/.])(?:deploy|tests)/[\w./-]*[\w-]", text)):
        assert (manifests.ROOT / path).exists(), f"deploy/README.md names {path}"


def test_the_example_of_the_readme_builds():
    text = (manifests.ROOT / "deploy" / "README.md").read_text()
    (example,) = source.re.findall(r"```yaml\n(.*?kind: Kustomization.*?)```", text, source.re.S)
    path = manifests.ROOT / "target" / "deploy-tests" / "readme"
    path.mkdir(parents=True, exist_ok=True)
    (path / "kustomization.yaml").write_text(example.replace("../daymend/", "../../../"))
    objects = manifests.build(path)
    # It has its own image and its own network. Everything else has to be as in the overlays.
    assert checks.problems(objects).keys() == {"images_are_this_version"}
    images = {container["image"] for _, container, _ in checks.containers(objects)}
    assert images == {f"registry.internal/daymend:{source.version()}"}
    (config,) = checks.of(objects, "ConfigMap")
    assert config["data"]["DAYMEND_NIGHTLY_AT"] == "01:30 local" and config["data"]["DAYMEND_GRACE"] == "25s"
    (policy,) = checks.of(objects, "NetworkPolicy")
    assert policy["spec"]["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.20.30.40/32"}}]
    (scaler,) = checks.of(objects, "ScaledObject")
    assert scaler["spec"]["triggers"][0]["metadata"]["serverAddress"] == "http://prometheus.metrics.svc:9090"
