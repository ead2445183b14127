"""The kinds of object that the client reads or makes, and where the API server has them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A kind of object. group: empty for the core API. installed_by: what a cluster lacks where it is not served."""

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    installed_by: str = ""

    @property
    def full_name(self) -> str:
        """As a Role and an error message spell it: `pytorchjobs.kubeflow.org`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, part: str | None = None) -> str:
        """The path of a list, an object or a part of one (`log`, `status`). namespace: None for all of them."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return root + scope + "".join(f"/{word}" for word in (self.plural, name, part) if word)


OPERATOR = "Kubeflow's training operator"
TRAINER = "Kubeflow Trainer v2"

PYTORCHJOBS = Resource("PyTorchJob", "pytorchjobs", "kubeflow.org", installed_by=OPERATOR)
TRAINJOBS = Resource("TrainJob", "trainjobs", "trainer.kubeflow.org", "v1alpha1", installed_by=TRAINER)
RUNTIMES = Resource("TrainingRuntime", "trainingruntimes", "trainer.kubeflow.org", "v1alpha1", installed_by=TRAINER)
WORKLOADS = Resource("Workload", "workloads", "kueue.x-k8s.io", "v1beta1", installed_by="Kueue")
LOCAL_QUEUES = Resource("LocalQueue", "localqueues", "kueue.x-k8s.io", "v1beta1", installed_by="Kueue")
PODS = Resource("Pod", "pods")
EVENTS = Resource("Event", "events")
CONFIG_MAPS = Resource("ConfigMap", "configmaps")
CLAIMS = Resource("PersistentVolumeClaim", "persistentvolumeclaims")
SECRETS = Resource("Secret", "secrets")
QUOTAS = Resource("ResourceQuota", "resourcequotas")
NODES = Resource("Node", "nodes", namespaced=False)
NAMESPACES = Resource("Namespace", "namespaces", namespaced=False)
STORAGE_CLASSES = Resource("StorageClass", "storageclasses", "storage.k8s.io", namespaced=False)
CRDS = Resource("CustomResourceDefinition", "customresourcedefinitions", "apiextensions.k8s.io", namespaced=False)
ACCESS_REVIEWS = Resource(
    "SelfSubjectAccessReview", "selfsubjectaccessreviews", "authorization.k8s.io", namespaced=False
)
