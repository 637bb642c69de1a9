from .files import RepairOptions as RepairOptions
from .repairing import Repair as Repair
from .repairing import repair_onnx as repair_onnx
from .search import sensitivity_shares as sensitivity_shares
from .search import smallest_float_set as smallest_float_set
