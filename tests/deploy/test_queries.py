"""What the autoscalers ask Prometheus, asked of Prometheus: promtool runs the very queries."""

import subprocess

import pytest
import yaml

import checks
import manifests

ZERO = {"available": 0, "paused": 0, "age": 0}


def keda():
    (scaler,) = checks.of(manifests.build(manifests.KUBERNETES / "overlays" / "keda"), "ScaledObject")
    return scaler["spec"]["triggers"][0]["metadata"]["query"]


def hpa():
    (rule,) = checks.adapter_rules()
    return rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="daymend"')


def series(pods, kinds):
    """What these schedulers export."""
    for pod in pods:
        for kind, says in kinds.items():
            common = f'namespace="daymend",pod="{pod}",kind="{kind}"'
            yield f"daymend_oldest_waiting_job_age_seconds{{{common}}}", says["age"]
            yield f'daymend_jobs{{{common},state="available"}}', says["available"]
            yield f'daymend_jobs{{{common},state="backing_off"}}', 5
            yield f"daymend_paused{{{common}}}", says["paused"]


CASES = {
    "nothing waits": (["a", "b"], {"nightly": ZERO, "rebuild": ZERO}, 0),
    "two schedulers say the same": (["a", "b"], {"nightly": ZERO | {"age": 600, "available": 3}, "rebuild": ZERO}, 600),
    "the older kind counts": (["a"], {"nightly": {"age": 60, "available": 3, "paused": 0}, "rebuild": {"age": 900, "available": 1, "paused": 0}}, 900),
    "jobs that only back off count for nothing": (["a", "b"], {"nightly": ZERO | {"age": 600}, "rebuild": ZERO}, 0),
    "a paused kind counts for nothing": (["a", "b"], {"nightly": ZERO, "rebuild": {"age": 600, "available": 9, "paused": 1}}, 0),
    "without a scheduler there is no answer": ([], {}, None),
}


@pytest.mark.parametrize("query", [keda, hpa])
@pytest.mark.parametrize("case", CASES)
def test_the_age_of_the_backlog(query, case, tmp_path):
    pods, kinds, wanted = CASES[case]
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "scaler", "rules": [{"record": "backlog", "expr": query()}]}]})
    )
    samples = [] if wanted is None else [{"labels": "backlog", "value": wanted}]
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": f"{value}x3"} for name, value in series(pods, kinds)],
                "promql_expr_test": [{"expr": "backlog", "eval_time": "2m", "exp_samples": samples}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    ran = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
