from .measuring import DeploymentOptions as DeploymentOptions
from .measuring import compare_deployments as compare_deployments
from .measuring import speedup_of as speedup_of
from .record import Deployment as Deployment
from .record import Deployments as Deployments
from .record import unsure_speedups as unsure_speedups
