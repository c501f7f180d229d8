"""The checks find what they are for: faults are planted one at a time into what was built, and each has to be found
by exactly the checks that are named with it.
"""

import copy

import pytest

import checks
import manifests
import source

BUILDS = manifests.kustomizations()


class Objects:
    """A copy of a build, to plant a fault into."""

    def __init__(self, build):
        self.all = copy.deepcopy(manifests.build(BUILDS[build]))

    def get(self, kind, name="daymend-worker"):
        (thing,) = [o for o in self.all if o["kind"] == kind and o["metadata"]["name"] in (name, "daymend")]
        return thing

    @property
    def worker(self):
        return self.get("Deployment")

    @property
    def template(self):
        return self.worker["spec"]["template"]

    @property
    def pod(self):
        return self.template["spec"]

    @property
    def container(self):
        return self.pod["containers"][0]

    @property
    def job(self):
        return self.get("Job", "daymend-migrate")

    @property
    def scaler(self):
        return self.get("ScaledObject")

    @property
    def trigger(self):
        return self.scaler["spec"]["triggers"][0]["metadata"]

    @property
    def hpa(self):
        return self.get("HorizontalPodAutoscaler")

    @property
    def policy(self):
        return self.get("NetworkPolicy", "daymend")

    @property
    def config(self):
        (config,) = checks.of(self.all, "ConfigMap")
        return config["data"]


FAULTS = []


def fault(*found_by, build="all-with-keda"):
    """Registers a fault, the checks that have to find it, and the build that it is planted into."""

    def register(plant):
        FAULTS.append(pytest.param(plant, set(found_by), build, id=plant.__name__))
        return plant

    return register


@fault("schemas", "resources_fit")
def a_typo_in_a_field(o):
    o.container["resource"] = o.container.pop("resources")


@fault("schemas")
def a_string_for_a_number(o):
    o.worker["spec"]["revisionHistoryLimit"] = "3"


@fault("schemas")
def an_api_version_that_is_gone(o):
    o.get("PodDisruptionBudget")["apiVersion"] = "policy/v1beta1"


@fault("schemas")
def a_typo_in_a_custom_resource(o):
    o.scaler["spec"]["maxReplicasCount"] = o.scaler["spec"]["maxReplicaCount"]


@fault("schemas")
def a_typo_in_a_trigger(o):
    o.trigger["treshold"] = o.trigger.pop("threshold")


@fault("schemas")
def a_number_where_a_trigger_wants_text(o):
    o.trigger["threshold"] = 300


@fault("schemas")
def a_typo_in_an_endpoint(o):
    o.get("PodMonitor")["spec"]["podMetricsEndpoints"][0]["intervall"] = "30s"


@fault("schemas")
def a_rule_without_an_expression(o):
    del o.get("PrometheusRule")["spec"]["groups"][0]["rules"][0]["expr"]


@fault("names_are_valid_and_unique")
def two_objects_of_one_name(o):
    o.all.append(copy.deepcopy(o.get("ServiceAccount", "daymend")))


@fault("names_are_valid_and_unique", "replicas_have_one_owner")
def a_name_with_an_underscore(o):
    o.get("Deployment", "daymend-scheduler")["metadata"]["name"] = "daymend_scheduler"
    o.scaler["spec"]["scaleTargetRef"]["name"] = "daymend_worker"
    o.worker["spec"]["replicas"] = 2


@fault("names_are_valid_and_unique", "triggers_ask_for_what_is_there")
def an_autoscaler_left_in_the_default_namespace(o):
    del o.scaler["metadata"]["namespace"]


@fault("labels_are_valid")
def a_label_that_is_no_text(o):
    o.policy["metadata"]["labels"]["app.kubernetes.io/version"] = "0.1.0+local build"


@fault("selectors_select", "pods_are_spread")
def a_selector_that_takes_the_schedulers_too(o):
    o.worker["spec"]["selector"] = {"matchLabels": {"app.kubernetes.io/name": "daymend"}}


@fault(
    "selectors_select",
    "every_service_is_scraped",
    "disruption_budgets_let_nodes_drain",
    "networks_are_narrow",
)
def labels_that_nothing_selects(o):
    o.template["metadata"]["labels"]["app.kubernetes.io/component"] = "workers"


@fault("selectors_select", "disruption_budgets_let_nodes_drain")
def a_budget_of_no_pod(o):
    o.get("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "wroker"


@fault("every_service_is_scraped")
def workers_that_nobody_scrapes(o):
    o.get("PodMonitor")["spec"]["selector"]["matchExpressions"][0]["values"].remove("worker")


@fault("every_service_is_scraped")
def a_scraped_port_that_is_not_there(o):
    o.get("PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] = "http"


@fault("mounts_have_volumes")
def a_mount_without_a_volume(o):
    o.container["volumeMounts"].append({"name": "cache", "mountPath": "/cache"})


@fault("mounts_have_volumes")
def no_writable_tmp(o):
    o.container["volumeMounts"] = [mount for mount in o.container["volumeMounts"] if mount["mountPath"] != "/tmp"]


@fault("references_resolve")
def a_secret_that_nobody_makes(o):
    o.container["env"][0]["valueFrom"]["secretKeyRef"]["name"] = "daymend-db"


@fault("references_resolve")
def a_key_that_a_secret_does_not_have(o):
    o.container["env"][0]["valueFrom"]["secretKeyRef"]["key"] = "URL"


@fault("references_resolve", "ports_and_probes_fit")
def a_config_map_that_is_not_there(o):
    o.container["envFrom"][0]["configMapRef"]["name"] = "daymend"


@fault("references_resolve")
def a_service_account_that_is_not_there(o):
    o.pod["serviceAccountName"] = "daymend-worker"


@fault("environment_is_read")
def a_variable_that_daymend_does_not_read(o):
    o.config["DAYMEND_NIGHTLY"] = "04:00 UTC"


@fault("the_database_url_is_secret")
def a_password_in_the_manifest(o):
    o.container["env"][0] = {"name": "DAYMEND_DATABASE_URL", "value": "mysql://daymend:secret@db/lab"}


@fault("arguments_are_known")
def a_command_that_daymend_does_not_have(o):
    o.job["spec"]["template"]["spec"]["containers"][0]["args"] = ["migrations"]


@fault("arguments_are_known")
def an_option_that_daymend_does_not_have(o):
    o.container["args"].append("--threads=2")


@fault("arguments_are_known")
def a_shell_in_an_image_without_one(o):
    o.container["command"] = ["sh", "-c"]


@fault("ports_and_probes_fit")
def a_probe_of_a_port_that_is_not_there(o):
    o.container["livenessProbe"]["httpGet"]["port"] = "http"


@fault("ports_and_probes_fit")
def a_liveness_that_asks_the_database(o):
    o.container["livenessProbe"]["httpGet"]["path"] = "/readyz"


@fault("ports_and_probes_fit")
def a_liveness_that_wants_two_successes(o):
    o.container["livenessProbe"]["successThreshold"] = 2


@fault("ports_and_probes_fit")
def no_startup_probe(o):
    del o.container["startupProbe"]


@fault("ports_and_probes_fit")
def metrics_for_the_pod_alone(o):
    o.config["DAYMEND_HTTP_ADDR"] = "127.0.0.1:9187"


@fault("ports_and_probes_fit")
def a_port_that_nobody_listens_at(o):
    o.container["ports"][0]["containerPort"] = 9178


@fault("resources_fit")
def a_quantity_with_a_typo(o):
    o.container["resources"]["limits"]["memory"] = "96MB"


@fault("resources_fit")
def a_limit_in_thousandths_of_a_byte(o):
    o.container["resources"]["requests"]["memory"] = "32m"


@fault("resources_fit")
def a_request_above_its_limit(o):
    o.container["resources"]["requests"]["memory"] = "1Gi"


@fault("resources_fit")
def a_limit_of_cpu(o):
    o.container["resources"]["limits"]["cpu"] = "1"


@fault("rollouts_move")
def a_rollout_that_may_neither_add_nor_remove(o):
    o.worker["spec"]["strategy"]["rollingUpdate"] = {"maxSurge": 0, "maxUnavailable": "0%"}


@fault("disruption_budgets_let_nodes_drain")
def a_budget_with_two_bounds(o):
    o.get("PodDisruptionBudget")["spec"]["minAvailable"] = 1


@fault("disruption_budgets_let_nodes_drain")
def a_budget_that_lets_nothing_go(o):
    o.get("PodDisruptionBudget")["spec"]["maxUnavailable"] = 0


@fault("disruption_budgets_let_nodes_drain")
def a_budget_that_keeps_unready_pods(o):
    del o.get("PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"]


@fault("jobs_end")
def a_job_that_restarts_for_ever(o):
    o.job["spec"]["template"]["spec"]["restartPolicy"] = "Always"


@fault("jobs_end")
def a_job_without_a_restart_policy(o):
    del o.job["spec"]["template"]["spec"]["restartPolicy"]


@fault("jobs_end")
def a_job_without_a_deadline(o):
    del o.job["spec"]["activeDeadlineSeconds"]


@fault("pods_are_restricted")
def a_pod_that_may_be_root(o):
    del o.pod["securityContext"]["runAsNonRoot"]


@fault("pods_are_restricted")
def a_pod_without_seccomp(o):
    del o.pod["securityContext"]["seccompProfile"]


@fault("pods_are_restricted")
def a_container_that_keeps_a_capability(o):
    o.container["securityContext"]["capabilities"]["add"] = ["NET_BIND_SERVICE"]


@fault("pods_are_restricted")
def a_writable_root(o):
    del o.container["securityContext"]["readOnlyRootFilesystem"]


@fault("pods_are_restricted")
def a_token(o):
    o.get("ServiceAccount", "daymend")["automountServiceAccountToken"] = True


@fault("pods_are_restricted")
def a_directory_of_the_host(o):
    o.pod["volumes"][0] = {"name": "tmp", "hostPath": {"path": "/tmp"}}


@fault("pods_may_finish")
def a_pod_that_is_killed_while_it_drains(o):
    del o.pod["terminationGracePeriodSeconds"]


@fault("pods_may_finish")
def a_longer_grace_in_the_settings(o):
    o.config["DAYMEND_GRACE"] = "1m"


@fault("pods_may_finish")
def a_longer_grace_in_the_arguments(o):
    o.container["args"] += ["--grace", "5m"]


@fault("pods_are_spread")
def pods_that_stay_pending_in_one_zone(o):
    o.pod["topologySpreadConstraints"][0]["whenUnsatisfiable"] = "DoNotSchedule"


@fault("pods_are_spread")
def pods_that_are_spread_among_others(o):
    o.pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] = "scheduler"


@fault("networks_are_narrow")
def a_network_that_lets_all_in(o):
    o.policy["spec"]["ingress"].append({})


@fault("networks_are_narrow")
def a_network_without_name_resolution(o):
    del o.policy["spec"]["egress"][0]


@fault("networks_are_narrow")
def an_address_range_with_a_host_in_it(o):
    o.policy["spec"]["egress"][1]["to"] = [{"ipBlock": {"cidr": "10.20.30.40/16"}}]


@fault("images_are_this_version")
def the_latest_image(o):
    o.container["image"] = "registry.example/daymend:latest"


@fault("replicas_have_one_owner")
def replicas_that_two_decide(o):
    o.worker["spec"]["replicas"] = 2


@fault("replicas_have_one_owner", build="all-with-hpa")
def replicas_that_two_decide_with_hpa(o):
    o.worker["spec"]["replicas"] = 2


@fault("replicas_have_one_owner", build="all-with-hpa")
def fewer_replicas_at_most_than_at_least(o):
    o.hpa["spec"]["minReplicas"] = 7


@fault("replicas_have_one_owner")
def fewer_keda_replicas_at_most_than_at_least(o):
    o.scaler["spec"]["minReplicaCount"] = 7


@fault("replicas_have_one_owner")
def a_single_worker_at_night(o):
    o.scaler["spec"]["minReplicaCount"] = 1


@fault("replicas_have_one_owner")
def an_autoscaler_of_nothing(o):
    o.scaler["spec"]["scaleTargetRef"]["name"] = "worker"
    o.worker["spec"]["replicas"] = 2


@fault("replicas_have_one_owner")
def an_outage_of_prometheus_that_ends_workers(o):
    o.scaler["spec"]["fallback"]["behavior"] = "static"


@fault("triggers_ask_for_what_is_there")
def a_metric_that_the_code_does_not_have(o):
    o.trigger["query"] = o.trigger["query"].replace("oldest_waiting_job_age", "oldest_job_age")


@fault("triggers_ask_for_what_is_there")
def a_label_that_a_metric_does_not_have(o):
    o.trigger["query"] = o.trigger["query"].replace("state=", "status=")


@fault("triggers_ask_for_what_is_there")
def a_sum_over_the_schedulers(o):
    o.trigger["query"] = o.trigger["query"].replace("max by", "sum by")


@fault("triggers_ask_for_what_is_there")
def a_query_about_another_namespace(o):
    o.trigger["query"] = o.trigger["query"].replace('namespace="daymend"', 'namespace="staging"')


@fault("triggers_ask_for_what_is_there")
def no_answer_counts_as_no_work(o):
    o.trigger["ignoreNullValues"] = "true"


@fault("triggers_ask_for_what_is_there", build="all-with-hpa")
def a_metric_that_the_adapter_does_not_have(o):
    o.hpa["spec"]["metrics"][0]["external"]["metric"]["name"] = "daymend_backlog"


@pytest.mark.parametrize("plant, found_by, build", FAULTS)
def test_a_planted_fault_is_found(plant, found_by, build):
    objects = Objects(build)
    plant(objects)
    assert objects.all != manifests.build(BUILDS[build]), "nothing was planted"
    # Problems of the build itself are reported by test_manifests.
    before, after = checks.problems(manifests.build(BUILDS[build])), checks.problems(objects.all)
    assert {name for name in after if set(after[name]) - set(before.get(name, []))} == found_by


def test_every_check_finds_a_fault():
    found = set().union(*(param.values[1] for param in FAULTS))
    assert found == checks.CHECKS.keys()


def test_a_secret_that_the_readme_forgets_is_found(monkeypatch):
    monkeypatch.setattr(source, "documented", dict)
    assert checks.problems(manifests.build(BUILDS["base"])).keys() == {"references_resolve"}
