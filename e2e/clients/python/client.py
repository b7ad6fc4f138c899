"""Does what a user does with kubernetes-python: reads one deed per line (JSON) and writes its events and its outcome."""

import json
import os
import sys
import traceback

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream


def write(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def plain(answer):
    return client.ApiClient().sanitize_for_serialization(answer)


def config_map(deed):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=deed["name"]), data={"text": deed["text"]})


def deployment(deed):
    labels = {"app": deed["name"]}
    container = client.V1Container(name="web", image="checkout:2.3.1")
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
    )
    spec = client.V1DeploymentSpec(replicas=0, selector=client.V1LabelSelector(match_labels=labels), template=template)
    return client.V1Deployment(metadata=client.V1ObjectMeta(name=deed["name"]), spec=spec)


class Client:
    def __init__(self):
        self.api = config.new_client_from_config(os.environ["KUBECONFIG"])
        self.core = client.CoreV1Api(self.api)
        self.apps = client.AppsV1Api(self.api)

    def do(self, deed):
        return getattr(self, deed["deed"].replace("-", "_"))(deed)

    def whoami(self, _deed):
        return self.review(client.AuthenticationV1Api(self.api).create_self_subject_review, client.V1SelfSubjectReview())

    def can_i(self, deed):
        attributes = client.V1ResourceAttributes(
            namespace=deed["namespace"], verb=deed["verb"], group=deed["group"], resource=deed["resource"]
        )
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        ask = client.AuthorizationV1Api(self.api).create_self_subject_access_review
        return self.review(ask, client.V1SelfSubjectAccessReview(spec=spec))

    @staticmethod
    def review(ask, body):
        return plain(ask(body))

    def discovery(self, _deed):
        found = dynamic.DynamicClient(self.api).resources
        kinds = [kind for kinds in found for kind in kinds if isinstance(kind, dynamic.Resource)]
        return sorted(f"{kind.group_version}/{kind.name}" for kind in kinds)

    def list(self, deed):
        return plain(self.core.list_namespaced_config_map(deed["namespace"]))

    def pages(self, deed):
        pages, names, token = 0, [], None
        while pages == 0 or token:
            page = self.core.list_namespaced_config_map(deed["namespace"], limit=deed["limit"], _continue=token)
            names += [item.metadata.name for item in page.items]
            pages, token = pages + 1, page.metadata._continue
        return {"pages": pages, "names": names}

    def secret(self, deed):
        return plain(self.core.read_namespaced_secret(deed["name"], deed["namespace"]))

    def watch(self, deed):
        lists = {"configmaps": self.core.list_namespaced_config_map, "services": self.core.list_namespaced_service}
        options = {"resource_version": deed["resourceVersion"]} if deed["resourceVersion"] else {}
        # Without timeout_seconds, Watch asks again and again for ever: with it, it ends where the stream ends.
        for event in watch.Watch().stream(lists[deed["resource"]], deed["namespace"], timeout_seconds=3600, **options):
            name = event["object"].metadata.name
            write({"event": event["type"], "name": name})
            if name == deed["until"]:
                return None
        raise EOFError("the watch ended without an error")

    def create(self, deed):
        return plain(self.core.create_namespaced_config_map(deed["namespace"], config_map(deed)))

    def create_deployment(self, deed):
        return plain(self.apps.create_namespaced_deployment(deed["namespace"], deployment(deed)))

    def apply_server_side(self, deed):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": deed["name"]}, "data": {"text": deed["text"]}}
        kind = dynamic.DynamicClient(self.api).resources.get(api_version="v1", kind="ConfigMap")
        applied = kind.server_side_apply(
            body, namespace=deed["namespace"], field_manager="clients", force_conflicts=True
        )
        return applied.to_dict()

    def patch(self, deed):
        body = {"data": {"text": deed["text"]}}
        return plain(self.core.patch_namespaced_config_map(deed["name"], deed["namespace"], body))

    def replace(self, deed):
        found = self.core.read_namespaced_config_map(deed["name"], deed["namespace"])
        found.data["text"] = deed["text"]
        return plain(self.core.replace_namespaced_config_map(deed["name"], deed["namespace"], found))

    def delete(self, deed):
        if deed["resource"] == "services":
            return plain(self.core.delete_namespaced_service(deed["name"], deed["namespace"]))
        return plain(self.apps.delete_namespaced_deployment(deed["name"], deed["namespace"]))

    def exec(self, deed):
        return stream(
            self.core.connect_get_namespaced_pod_exec,
            deed["name"],
            deed["namespace"],
            command=["ls"],
            stdout=True,
            stderr=True,
        )


def outcome(actor, deed):
    try:
        return {"ok": True, "said": actor.do(deed)}
    except ApiException as error:
        try:
            reason = json.loads(error.body or "").get("reason")
        except ValueError:
            reason = None
        return {"ok": False, "code": error.status, "reason": reason, "said": str(error)}
    except Exception:
        return {"ok": False, "said": traceback.format_exc()}


def main():
    actor = Client()
    for line in sys.stdin:
        write(outcome(actor, json.loads(line)))


main()
