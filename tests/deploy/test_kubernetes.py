"""The manifests, field by field: strict models of what they use, and agreement between them, the image and the deployments.

No schema of Kubernetes is installed, so these models have the names, types and rules of its API's documentation for the fields used here;
any other field is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field

from flows.cli.app import app
from flows.server.deployments import POOLS
from pipeline.errors import BadInput
from tests.support.runs import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Quantity = Annotated[str, Field(pattern=r"^\d+(m|Mi|Gi|Ti)?$")]
Labels = dict[Annotated[str, Field(pattern=r"^app\.kubernetes\.io/(name|component)$")], Name]


class Strict(BaseModel):
    """Fields in Kubernetes' spelling; no others, and no conversion: a number in quotes is a string."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: Name | None = None
    generateName: Annotated[str, Field(pattern=r"^[a-z0-9-]+-$")] | None = None
    labels: Labels


class Requests(Strict):
    requests: dict[Literal["cpu", "memory", "storage", "nvidia.com/gpu"], Quantity]
    limits: dict[Literal["cpu", "memory", "nvidia.com/gpu"], Quantity] = {}


class ClaimSpec(Strict):
    accessModes: list[Literal["ReadWriteMany", "ReadWriteOnce"]]
    resources: Requests


class Claim(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    metadata: Metadata
    spec: ClaimSpec


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: int
    runAsGroup: int
    fsGroup: int
    fsGroupChangePolicy: Literal["OnRootMismatch"]
    seccompProfile: Seccomp


class Capabilities(Strict):
    drop: tuple[Literal["ALL"]] = Field(strict=False)


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: Literal[False]
    readOnlyRootFilesystem: Literal[True]
    capabilities: Capabilities


class Variable(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Z_]+$")]
    value: str


class Reference(Strict):
    name: Name


class FromSecret(Strict):
    secretRef: Reference


class Port(Strict):
    name: Name
    containerPort: int = Field(ge=1024, le=65535)


class Get(Strict):
    path: str
    port: Name


class Probe(Strict):
    httpGet: Get
    initialDelaySeconds: int
    periodSeconds: int
    timeoutSeconds: int
    failureThreshold: int


class Mount(Strict):
    name: Name
    mountPath: Annotated[str, Field(pattern=r"^/")]
    readOnly: bool = False


class Container(Strict):
    name: Name
    image: Literal["mind:cpu", "mind:cuda"]
    args: list[str]
    env: list[Variable] = []
    envFrom: list[FromSecret] = []
    ports: list[Port] = []
    livenessProbe: Probe | None = None
    resources: Requests
    securityContext: ContainerSecurity
    volumeMounts: list[Mount]


class Empty(Strict):
    medium: Literal["Memory"] | None = None
    sizeLimit: Quantity | None = None


class ClaimName(Strict):
    claimName: Name


class Volume(Strict):
    name: Name
    persistentVolumeClaim: ClaimName | None = None
    configMap: Reference | None = None
    emptyDir: Empty | None = None


class PodSpec(Strict):
    automountServiceAccountToken: Literal[False]
    terminationGracePeriodSeconds: int | None = None
    restartPolicy: Literal["Never"] | None = None
    securityContext: PodSecurity
    containers: list[Container]
    volumes: list[Volume]


class Pod(Strict):
    metadata: Metadata
    spec: PodSpec


class Strategy(Strict):
    type: Literal["Recreate"]


class Selector(Strict):
    matchLabels: Labels


class DeploymentSpec(Strict):
    replicas: int
    strategy: Strategy
    selector: Selector
    template: Pod


class Deployment(Strict):
    apiVersion: Literal["apps/v1"]
    kind: Literal["Deployment"]
    metadata: Metadata
    spec: DeploymentSpec


class ExitCodes(Strict):
    containerName: Name
    operator: Literal["In"]
    values: list[int]


class Rule(Strict):
    action: Literal["FailJob"]
    onExitCodes: ExitCodes


class Policy(Strict):
    rules: list[Rule]


class JobSpec(Strict):
    backoffLimit: int
    ttlSecondsAfterFinished: int
    podFailurePolicy: Policy
    template: Pod


class Job(Strict):
    apiVersion: Literal["batch/v1"]
    kind: Literal["Job"]
    metadata: Metadata
    spec: JobSpec


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


CLAIM = Claim.model_validate(read("artifacts.yaml"))
WORKER = Deployment.model_validate(read("worker.yaml"))
JOB = Job.model_validate(read("job.yaml"))
PODS = {"worker": WORKER.spec.template, "job": JOB.spec.template}


def test_every_manifest_is_read_here() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == ["artifacts.yaml", "job.yaml", "worker.yaml"]


def test_the_deployment_selects_its_own_pods() -> None:
    assert WORKER.spec.selector.matchLabels == WORKER.spec.template.metadata.labels == WORKER.metadata.labels


@pytest.mark.parametrize("name", PODS)
def test_every_mount_has_a_volume_and_every_volume_one_source(name: str) -> None:
    pod = PODS[name].spec
    (container,) = pod.containers
    volumes = {volume.name: volume.model_dump(exclude_none=True) for volume in pod.volumes}
    assert {mount.name for mount in container.volumeMounts} == set(volumes)
    assert all(len(volume) == 2 for volume in volumes.values())
    claimed = [volume.persistentVolumeClaim.claimName for volume in pod.volumes if volume.persistentVolumeClaim]
    assert claimed == [CLAIM.metadata.name]
    mounts = {mount.mountPath for mount in container.volumeMounts}
    assert {"/data", "/home/mind", "/tmp", "/dev/shm"} <= mounts, "a read-only image needs a place for whatever is written"


@pytest.mark.parametrize("name", PODS)
def test_the_user_is_that_of_the_image(name: str) -> None:
    security = PODS[name].spec.securityContext
    assert f"USER {security.runAsUser}:{security.runAsGroup}\n" in (REPOSITORY / "Dockerfile").read_text()
    assert security.fsGroup == security.runAsGroup


@pytest.mark.parametrize("name", PODS)
def test_memory_and_cards_are_limited(name: str) -> None:
    (container,) = PODS[name].spec.containers
    assert {"cpu", "memory"} <= container.resources.requests.keys()
    assert {"memory", "nvidia.com/gpu"} <= container.resources.limits.keys()


def test_the_worker_polls_a_pool_of_the_deployments_and_its_probe_meets_prefects_port() -> None:
    (worker,) = WORKER.spec.template.spec.containers
    assert worker.args[:3] == ["prefect", "worker", "start"]
    assert worker.args[worker.args.index("--pool") + 1] in POOLS
    assert worker.livenessProbe is not None
    (port,) = worker.ports
    assert worker.livenessProbe.httpGet.port == port.name
    assert {variable.name: variable.value for variable in worker.env}["PREFECT_WORKER_WEBSERVER_PORT"] == str(
        port.containerPort
    )
    assert [source.secretRef.name for source in worker.envFrom] == ["mind-prefect"]


def test_the_job_runs_a_command_of_ours_and_stops_at_bad_input() -> None:
    (container,) = JOB.spec.template.spec.containers
    assert container.args[0] == "mind"
    assert container.args[1] in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    folder = next(mount.mountPath for mount in container.volumeMounts if mount.name == "configuration")
    assert container.args[2].startswith(f"{folder}/")
    (rule,) = JOB.spec.podFailurePolicy.rules
    assert rule.onExitCodes.values == [BadInput.exit_code]
    assert rule.onExitCodes.containerName == container.name
    assert JOB.spec.template.spec.restartPolicy == "Never"
