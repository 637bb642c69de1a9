from .measuring import DeploymentOptions as DeploymentOptions
from .measuring import compare_deployments as compare_deployments
from .record import Deployment as Deployment
from .record import Deployments as Deployments
