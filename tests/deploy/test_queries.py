"""The queries of the autoscalers and the dashboard, run by promtool as they are."""

import json
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


def ask(query, series, eval_time, wanted, tmp_path):
    """Checks that a query at this time returns this number, or nothing if it is None."""
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "asked", "rules": [{"record": "answer", "expr": query}]}]})
    )
    samples = [] if wanted is None else [{"labels": "answer", "value": wanted}]
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [{"expr": "answer", "eval_time": eval_time, "exp_samples": samples}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    ran = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("query", [keda, hpa])
@pytest.mark.parametrize("case", CASES)
def test_the_age_of_the_backlog(query, case, tmp_path):
    pods, kinds, wanted = CASES[case]
    ask(query(), [(name, f"{value}x3") for name, value in series(pods, kinds)], "2m", wanted, tmp_path)


def panel(kind, title, ref="A"):
    """The query of a panel of the dashboard, for all namespaces."""
    dashboard = json.loads((manifests.KUBERNETES.parent / "grafana" / "daymend.json").read_text())
    (found,) = [panel for panel in dashboard["panels"] if (panel["type"], panel["title"]) == (kind, title)]
    (query,) = [target["expr"] for target in found["targets"] if target["refId"] == ref]
    return query.replace("$namespace", ".*")


def jobs(kind, **states):
    for pod in ["a", "b"]:
        for state, count in states.items():
            yield f'daymend_jobs{{pod="{pod}",kind="{kind}",state="{state}"}}', f"{count}x10"


def paused(kind, value):
    return [(f'daymend_paused{{pod="{pod}",kind="{kind}"}}', f"{value}x10") for pod in ["a", "b"]]


def test_jobs_of_a_paused_kind_are_left_out_unless_they_run(tmp_path):
    waiting = [*jobs("repair", available=3, backing_off=2, running=1), *paused("repair", 0)]
    waiting += [*jobs("rebuild", available=900, backing_off=7, running=4, paused=30), *paused("rebuild", 1)]
    ask(panel("stat", "Jobs waiting or running"), waiting, "5m", 3 + 2 + 1 + 4, tmp_path)
    # Two per second.
    done = [('daymend_attempts_total{kind="repair",outcome="unchanged"}', "0+120x10")]
    for kind in ["stat", "timeseries"]:
        ask(panel(kind, "Time to drain"), waiting + done, "10m", (3 + 2 + 1 + 4) / 2, tmp_path)


def test_days_left_out_as_a_scheduler_starts_are_shown_for_a_day(tmp_path):
    # One scheduler is replaced half an hour later, the other keeps running.
    skipped = [
        ('daymend_nightly_skipped_total{pod="a"}', "_x10 12x30 stale"),
        ('daymend_nightly_skipped_total{pod="b"}', "_x41 0x3000"),
    ]
    for eval_time, wanted in [("5m", None), ("20m", 12), ("20h", 12), ("25h", 0)]:
        ask(panel("timeseries", "Overdue days", "B"), skipped, eval_time, wanted, tmp_path)


def test_the_heartbeat_of_a_worker_that_is_cut_off_goes_on_to_age(tmp_path):
    beats = [
        ('daymend_leases_lost_total{instance="cut"}', "0x60"),
        ('daymend_worker_heartbeat_timestamp_seconds{instance="cut"}', "0+60x10 600x4 stale"),
        ('daymend_leases_lost_total{instance="well"}', "0x60"),
        ('daymend_worker_heartbeat_timestamp_seconds{instance="well"}', "0+60x60"),
        # This worker has ended.
        ('daymend_leases_lost_total{instance="gone"}', "0x5 stale"),
        ('daymend_worker_heartbeat_timestamp_seconds{instance="gone"}', "0+60x5 stale"),
    ]
    ask(panel("timeseries", "Age of the oldest heartbeat"), beats, "30m", 20 * 60, tmp_path)
