"""Checks of what a schema cannot express. Each looks at all objects of one build and yields what is wrong.

Of faults planted in manifests, strict schemas find one in ten, and an API server three in four; the rest would
only show in operation.
"""

import ipaddress
import re
from fractions import Fraction

import manifests
import source
from source import SERVICES

CHECKS = {}

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
UNITS = {None: 1, "m": Fraction(1, 1000), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

# Labels that Prometheus adds to what it scrapes from a pod.
TARGET_LABELS = {"namespace", "pod", "container", "job", "instance", "endpoint"}

PROBES = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def check(function):
    CHECKS[function.__name__] = function
    return function


def problems(objects):
    """The problems, by the name of the check that found them."""
    wrong = {name: list(function(objects)) for name, function in CHECKS.items()}
    return {name: messages for name, messages in wrong.items() if messages}


def of(objects, *kinds):
    return [thing for thing in objects if thing["kind"] in kinds]


def name_of(thing):
    return f"{thing['kind']}/{thing['metadata']['name']}"


def workloads(objects):
    """Each object that creates pods, with their template."""
    return [(thing, thing["spec"]["template"]) for thing in of(objects, "Deployment", "Job")]


def containers(objects):
    for thing, template in workloads(objects):
        for container in template["spec"].get("initContainers", []) + template["spec"]["containers"]:
            yield f"{name_of(thing)}, container {container['name']}", container, template["spec"]


def services(objects):
    """The containers of commands that keep running."""
    for where, container, pod in containers(objects):
        if (container.get("args") or [None])[0] in SERVICES:
            yield where, container, pod


def labels_of(template):
    return template["metadata"].get("labels", {})


def selects(selector, labels):
    def holds(expression):
        value, among = labels.get(expression["key"]), expression.get("values", [])
        return {
            "In": value in among,
            "NotIn": value not in among,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[expression["operator"]]

    wanted = selector.get("matchLabels", {}).items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        holds(expression) for expression in selector.get("matchExpressions", [])
    )


def walk(value, key=None):
    """Every value below this one, with its key."""
    yield key, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, key)


def quantity(text):
    match = QUANTITY.fullmatch(str(text))
    return Fraction(match[1]) * UNITS[match[2]] if match else None


def settings(container, objects):
    """The environment of a container, as far as the manifests define it."""
    known = {}
    for source_ in container.get("envFrom", []):
        for config in of(objects, "ConfigMap"):
            if config["metadata"]["name"] == source_.get("configMapRef", {}).get("name"):
                known |= config["data"]
    return known | {entry["name"]: entry.get("value") for entry in container.get("env", [])}


@check
def schemas(objects):
    for thing in objects:
        yield from manifests.schema_problems(thing)


@check
def names_are_valid_and_unique(objects):
    seen = set()
    for thing in objects:
        if not NAME.fullmatch(thing["metadata"]["name"]):
            yield f"{name_of(thing)}: not a valid name"
        if name_of(thing) in seen:
            yield f"{name_of(thing)}: there are two"
        seen.add(name_of(thing))
    namespaces = {thing["metadata"].get("namespace") for thing in objects}
    if len(namespaces) != 1 or None in namespaces:
        yield f"the objects are in several namespaces: {namespaces}"


@check
def labels_are_valid(objects):
    for thing in objects:
        for key, value in walk(thing):
            if key in ("labels", "matchLabels") and isinstance(value, dict) and thing["kind"] != "PrometheusRule":
                for label, text in value.items():
                    prefix, _, short = label.rpartition("/")
                    if not (short and LABEL.fullmatch(short) and (not prefix or NAME.fullmatch(prefix))):
                        yield f"{name_of(thing)}: {label} is no valid label"
                    if not isinstance(text, str) or not LABEL.fullmatch(text):
                        yield f"{name_of(thing)}: {text!r} is no valid value of a label"


@check
def selectors_select(objects):
    all_labels = [labels_of(template) for _, template in workloads(objects)]
    for thing, template in workloads(objects):
        if thing["kind"] == "Deployment":
            selector = thing["spec"]["selector"]
            if selector != {"matchLabels": labels_of(template)}:
                yield f"{name_of(thing)}: its selector is not its pods' labels"
            if sum(selects(selector, labels) for labels in all_labels) > 1:
                yield f"{name_of(thing)}: its selector takes pods of others"
    for thing in of(objects, "PodDisruptionBudget", "PodMonitor"):
        if not any(selects(thing["spec"]["selector"], labels) for labels in all_labels):
            yield f"{name_of(thing)}: selects no pod"
    for thing in of(objects, "NetworkPolicy"):
        if not any(selects(thing["spec"]["podSelector"], labels) for labels in all_labels):
            yield f"{name_of(thing)}: selects no pod"


@check
def every_service_is_scraped(objects):
    monitors = of(objects, "PodMonitor")
    for thing, template in workloads(objects):
        if not monitors or thing["kind"] == "Job":
            continue
        by = [monitor for monitor in monitors if selects(monitor["spec"]["selector"], labels_of(template))]
        if len(by) != 1:
            yield f"{name_of(thing)}: scraped by {len(by)} PodMonitors"
        ports = {port["name"] for port in template["spec"]["containers"][0].get("ports", [])}
        for monitor in by:
            if monitor["spec"].get("jobLabel") not in labels_of(template):
                yield f"{name_of(monitor)}: jobLabel is no label of {name_of(thing)}"
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in ports:
                    yield f"{name_of(monitor)}: {name_of(thing)} has no port {endpoint['port']}"
                if endpoint.get("path") != "/metrics":
                    yield f"{name_of(monitor)}: the metrics are at /metrics"


@check
def mounts_have_volumes(objects):
    for thing, template in workloads(objects):
        volumes = [volume["name"] for volume in template["spec"].get("volumes", [])]
        if len(set(volumes)) != len(volumes):
            yield f"{name_of(thing)}: two volumes of one name"
        mounted = set()
        for container in template["spec"]["containers"]:
            mounts = container.get("volumeMounts", [])
            paths = [mount["mountPath"] for mount in mounts]
            if len(set(paths)) != len(paths):
                yield f"{name_of(thing)}: two volumes are mounted at one path"
            if "/tmp" not in paths:
                yield f"{name_of(thing)}: nothing writable at /tmp"
            mounted |= {mount["name"] for mount in mounts}
        for name in mounted - set(volumes):
            yield f"{name_of(thing)}: no volume is named {name}"
        for name in set(volumes) - mounted:
            yield f"{name_of(thing)}: volume {name} is not mounted"


@check
def references_resolve(objects):
    built = {(thing["kind"], thing["metadata"]["name"]): set(thing.get("data", {})) for thing in objects}
    known = built | source.documented()

    def look(where, kind, name, key=None):
        if (kind, name) not in known:
            yield f"{where}: {kind} {name} is neither built nor documented"
        elif key is not None and key not in known[kind, name]:
            yield f"{where}: {kind} {name} has no key {key}"

    for where, container, _ in containers(objects):
        for entry in container.get("env", []):
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if reference := entry.get("valueFrom", {}).get(field):
                    yield from look(where, kind, reference["name"], reference["key"])
        for entry in container.get("envFrom", []):
            for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if field in entry:
                    yield from look(where, kind, entry[field]["name"])
    for thing, template in workloads(objects):
        yield from look(name_of(thing), "ServiceAccount", template["spec"].get("serviceAccountName"))
        for volume in template["spec"].get("volumes", []):
            if "configMap" in volume:
                yield from look(name_of(thing), "ConfigMap", volume["configMap"]["name"])
            if "secret" in volume:
                yield from look(name_of(thing), "Secret", volume["secret"]["secretName"])


@check
def environment_is_read(objects):
    known = source.environment()
    for where, container, _ in containers(objects):
        names = [entry["name"] for entry in container.get("env", [])]
        if len(set(names)) != len(names):
            yield f"{where}: a variable is set twice"
        for name in settings(container, objects).keys() - known:
            yield f"{where}: daymend does not read {name}"


@check
def the_database_url_is_secret(objects):
    for thing in of(objects, "Secret"):
        yield f"{name_of(thing)}: Secrets are not part of the manifests"
    for where, container, _ in containers(objects):
        urls = [entry for entry in container.get("env", []) if entry["name"] == "DAYMEND_DATABASE_URL"]
        if len(urls) != 1 or "secretKeyRef" not in urls[0].get("valueFrom", {}):
            yield f"{where}: DAYMEND_DATABASE_URL has to come from a Secret"
    for thing in objects:
        for _, value in walk(thing):
            if isinstance(value, str) and re.search(r"(mysql|mariadb)://", value):
                yield f"{name_of(thing)}: a database URL in plain text"


@check
def arguments_are_known(objects):
    for where, container, _ in containers(objects):
        if "command" in container:
            yield f"{where}: the image has an entry point, and no shell"
        command, *rest = container.get("args") or [None]
        if command not in source.commands():
            yield f"{where}: daymend has no command {command}"
        for argument in rest:
            if argument.startswith("--") and argument.split("=")[0] not in source.options():
                yield f"{where}: daymend has no option {argument}"


@check
def ports_and_probes_fit(objects):
    for where, container, _ in services(objects):
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for name in ports:
            if not PORT_NAME.fullmatch(name):
                yield f"{where}: {name} is no valid name of a port"
        address, _, port = (settings(container, objects).get("DAYMEND_HTTP_ADDR") or "").rpartition(":")
        if address != "0.0.0.0" or port not in map(str, ports.values()):
            yield f"{where}: DAYMEND_HTTP_ADDR is not 0.0.0.0 and a port of the container"
        for probe, path in PROBES.items():
            if probe not in container:
                yield f"{where}: no {probe}"
                continue
            get = container[probe].get("httpGet", {})
            if get.get("path") != path:
                yield f"{where}: {probe} has to ask {path}"
            if get.get("port") not in ports:
                yield f"{where}: {probe}: no port is named {get.get('port')}"
            if probe != "readinessProbe" and container[probe].get("successThreshold", 1) != 1:
                yield f"{where}: {probe}: successThreshold has to be 1"


@check
def resources_fit(objects):
    for where, container, pod in containers(objects):
        resources = container.get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        for name, text in [*requests.items(), *limits.items()]:
            if quantity(text) is None:
                yield f"{where}: {name}: {text} is no quantity"
        for name in requests.keys() & limits.keys():
            request, limit = quantity(requests[name]), quantity(limits[name])
            if request is not None and limit is not None and request > limit:
                yield f"{where}: requests more {name} than its limit"
        if requests.keys() != {"cpu", "memory"} or limits.keys() != {"memory"}:
            yield f"{where}: requests of CPU and memory and a limit of memory, nothing else"
        if (quantity(requests.get("memory", 0)) or 0) < 2**20:
            yield f"{where}: requests less than a MiB of memory"
        for volume in pod.get("volumes", []):
            if "emptyDir" in volume and not quantity(volume["emptyDir"].get("sizeLimit")):
                yield f"{where}: volume {volume['name']} has no sizeLimit"


@check
def rollouts_move(objects):
    for thing in of(objects, "Deployment"):
        rolling = thing["spec"].get("strategy", {}).get("rollingUpdate", {})
        surge, unavailable = rolling.get("maxSurge", "25%"), rolling.get("maxUnavailable", "25%")
        if str(surge).rstrip("%") == "0" and str(unavailable).rstrip("%") == "0":
            yield f"{name_of(thing)}: maxSurge and maxUnavailable are both 0"


@check
def disruption_budgets_let_nodes_drain(objects):
    budgets = of(objects, "PodDisruptionBudget")
    for thing in budgets:
        bounds = [thing["spec"][bound] for bound in ("minAvailable", "maxUnavailable") if bound in thing["spec"]]
        if len(bounds) != 1:
            yield f"{name_of(thing)}: one of minAvailable and maxUnavailable"
        if str(thing["spec"].get("maxUnavailable")).rstrip("%") == "0":
            yield f"{name_of(thing)}: no pod may ever go"
        if thing["spec"].get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{name_of(thing)}: unhealthy pods would keep a node from being drained"
    for thing in of(objects, "Deployment"):
        by = [b for b in budgets if selects(b["spec"]["selector"], labels_of(thing["spec"]["template"]))]
        if len(by) != 1:
            yield f"{name_of(thing)}: {len(by)} disruption budgets, an eviction wants exactly one"


@check
def jobs_end(objects):
    for thing in of(objects, "Job"):
        spec, pod = thing["spec"], thing["spec"]["template"]["spec"]
        if pod.get("restartPolicy") not in ("Never", "OnFailure"):
            yield f"{name_of(thing)}: restartPolicy has to be Never or OnFailure"
        if "activeDeadlineSeconds" not in spec or "backoffLimit" not in spec:
            yield f"{name_of(thing)}: no limit on its time or its tries"
        policy = spec.get("podFailurePolicy", {}).get("rules", [])
        if policy and pod.get("restartPolicy") != "Never":
            yield f"{name_of(thing)}: a podFailurePolicy wants restartPolicy Never"
        names = {container["name"] for container in pod["containers"]}
        for rule in policy:
            if rule.get("onExitCodes", {}).get("containerName") not in names | {None}:
                yield f"{name_of(thing)}: podFailurePolicy names no container of it"
    for thing in of(objects, "Deployment"):
        if thing["spec"]["template"]["spec"].get("restartPolicy", "Always") != "Always":
            yield f"{name_of(thing)}: restartPolicy has to be Always"


@check
def pods_are_restricted(objects):
    """The `restricted` pod security standard, and more: a fixed user, a read-only root, no token."""
    for thing in of(objects, "ServiceAccount"):
        if thing.get("automountServiceAccountToken") is not False:
            yield f"{name_of(thing)}: its token is mounted"
    for thing in of(objects, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        yield f"{name_of(thing)}: daymend needs no rights"
    for thing, template in workloads(objects):
        pod, where = template["spec"], name_of(thing)
        context = pod.get("securityContext", {})
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{where}: a token is mounted"
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser") or not context.get("runAsGroup"):
            yield f"{where}: may run as root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{where}: no seccompProfile RuntimeDefault"
        for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if pod.get(field):
                yield f"{where}: {field}"
        for volume in pod.get("volumes", []):
            for kind in volume.keys() - {"name", "emptyDir", "configMap", "secret", "projected", "downwardAPI"}:
                yield f"{where}: a volume of kind {kind}"
    for where, container, _ in containers(objects):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{where}: may gain privileges"
        if context.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: its root file system is writable"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{where}: keeps capabilities"
        for field in ("runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile"):
            if field in context:
                yield f"{where}: {field} overrides the pod's"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{where}: a port of the host"


@check
def pods_may_finish(objects):
    for where, container, pod in services(objects):
        grace = settings(container, objects).get("DAYMEND_GRACE")
        grace = source.seconds(grace) if grace else source.grace_seconds()
        arguments = container["args"]
        for at, argument in enumerate(arguments):
            if argument.split("=")[0] == "--grace":
                grace = source.seconds((argument.split("=")[1:] or arguments[at + 1 :])[0])
        grace = max(grace, source.grace_seconds())
        period = pod.get("terminationGracePeriodSeconds", 30)
        if period < grace + 30:
            yield f"{where}: killed after {period} s, with a grace of {grace} s"
        if "preStop" in container.get("lifecycle", {}):
            yield f"{where}: preStop only makes its end later, nothing routes to it"


@check
def pods_are_spread(objects):
    for thing in of(objects, "Deployment"):
        spread = thing["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
        if {entry["topologyKey"] for entry in spread} != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}:
            yield f"{name_of(thing)}: not spread over zones and hosts"
        for entry in spread:
            if entry["whenUnsatisfiable"] != "ScheduleAnyway":
                yield f"{name_of(thing)}: stays pending in a cluster of one zone"
            if entry["labelSelector"] != thing["spec"]["selector"]:
                yield f"{name_of(thing)}: spread among pods of others"


@check
def networks_are_narrow(objects):
    policies = of(objects, "NetworkPolicy")
    for thing, template in workloads(objects):
        if not any(selects(policy["spec"]["podSelector"], labels_of(template)) for policy in policies):
            yield f"{name_of(thing)}: no NetworkPolicy"
    for thing in policies:
        if set(thing["spec"].get("policyTypes", [])) != {"Ingress", "Egress"}:
            yield f"{name_of(thing)}: has to be of both types"
        for rule in thing["spec"].get("ingress", []):
            if [port["port"] for port in rule.get("ports", [])] != ["metrics"]:
                yield f"{name_of(thing)}: lets in more than the metrics port"
        out = {(p.get("protocol", "TCP"), p["port"]) for r in thing["spec"]["egress"] for p in r.get("ports", [])}
        if out != {("UDP", 53), ("TCP", 53), ("TCP", 3306)} or not all(r.get("ports") for r in thing["spec"]["egress"]):
            yield f"{name_of(thing)}: lets out other than DNS and the database"
        for key, value in walk(thing):
            if key == "ipBlock" and isinstance(value, dict):
                for cidr in [value["cidr"], *value.get("except", [])]:
                    try:
                        ipaddress.ip_network(cidr)
                    except ValueError as error:
                        yield f"{name_of(thing)}: {error}"


@check
def images_are_this_version(objects):
    for where, container, _ in containers(objects):
        if container["image"] != f"registry.example/daymend:{source.version()}":
            yield f"{where}: {container['image']} is not the image of this version"


@check
def replicas_have_one_owner(objects):
    scalers = {}
    for thing in of(objects, "ScaledObject", "HorizontalPodAutoscaler"):
        spec, target = thing["spec"], thing["spec"]["scaleTargetRef"]
        low = spec.get("minReplicaCount", spec.get("minReplicas", 1))
        high = spec.get("maxReplicaCount", spec.get("maxReplicas"))
        if not 2 <= low <= high:
            yield f"{name_of(thing)}: from {low} to {high} replicas"
        fallback = spec.get("fallback")
        if thing["kind"] == "ScaledObject" and not (
            fallback and fallback.get("behavior") == "currentReplicasIfHigher" and low <= fallback["replicas"] <= high
        ):
            yield f"{name_of(thing)}: without Prometheus it has to keep the replicas that are there"
        key = (target.get("apiVersion"), target.get("kind"), target["name"])
        if key in scalers:
            yield f"{name_of(thing)}: {scalers[key]} scales the same"
        scalers[key] = name_of(thing)
    for thing in of(objects, "Deployment"):
        scaler = scalers.pop((thing["apiVersion"], thing["kind"], thing["metadata"]["name"]), None)
        if scaler and "replicas" in thing["spec"]:
            yield f"{name_of(thing)}: replicas, though {scaler} decides them"
        if not scaler and thing["spec"].get("replicas", 1) < 2:
            yield f"{name_of(thing)}: fewer than two replicas"
    for target, scaler in scalers.items():
        yield f"{scaler}: scales {target}, which is not there"


def query_problems(query):
    """Metrics and labels that the code does not have, and sums of gauges that every scheduler exports."""
    known = source.metrics()
    if "sum" in query:
        yield "sum: every scheduler exports the same gauges"
    names = re.findall(r"daymend_\w+", query)
    if not names:
        yield "no metric"
    for name in names:
        if name not in known:
            yield f"{name} is not in the catalogue"
    for name, matchers in re.findall(r"(daymend_\w+)\{([^}]*)\}", query):
        for label in re.findall(r"(\w+)\s*[=!]", matchers):
            if label not in known.get(name, set()) | TARGET_LABELS:
                yield f"{name} has no label {label}"
    for grouping, name in re.findall(r"by \(([^)]*)\) \((daymend_\w+)", query):
        for label in re.findall(r"\w+", grouping):
            if label not in known.get(name, set()) | TARGET_LABELS:
                yield f"{name} has no label {label}"


@check
def triggers_ask_for_what_is_there(objects):
    for thing in of(objects, "ScaledObject"):
        for trigger in thing["spec"]["triggers"]:
            metadata = trigger["metadata"]
            query = metadata.get("query", "")
            for problem in query_problems(query):
                yield f"{name_of(thing)}: {problem}"
            if set(re.findall(r'namespace="([^"]*)"', query)) != {thing["metadata"].get("namespace")}:
                yield f"{name_of(thing)}: asks about another namespace than its own"
            if metadata.get("ignoreNullValues") != "false":
                yield f"{name_of(thing)}: no answer would count as nothing to do"
    for thing in of(objects, "HorizontalPodAutoscaler"):
        rules = {rule["name"]["as"]: rule for rule in adapter_rules()}
        for metric in thing["spec"]["metrics"]:
            if metric["external"]["metric"]["name"] not in rules:
                yield f"{name_of(thing)}: prometheus-adapter.yaml has no rule for its metric"
        for rule in rules.values():
            for problem in [*query_problems(rule["metricsQuery"]), *query_problems(rule["seriesQuery"])]:
                yield f"prometheus-adapter.yaml: {problem}"


def adapter_rules():
    path = manifests.KUBERNETES / "components" / "hpa" / "prometheus-adapter.yaml"
    return manifests.yaml.safe_load(path.read_text())["rules"]["external"]
