from .judging import fixed_sequence as fixed_sequence
from .options import RepairOptions as RepairOptions
from .repairing import Repair as Repair
from .repairing import repair_int8 as repair_int8
from .search import sensitivity_shares as sensitivity_shares
from .search import smallest_float_set as smallest_float_set
