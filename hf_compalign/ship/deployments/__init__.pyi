from .measuring import DeploymentOptions as DeploymentOptions
from .measuring import compare_deployments as compare_deployments
from .measuring import timed_deployments as timed_deployments
from .record import Deployment as Deployment
from .record import Deployments as Deployments
