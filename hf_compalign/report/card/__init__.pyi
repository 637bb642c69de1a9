from .writing import ORIGINAL as ORIGINAL
from .writing import CardDetails as CardDetails
from .writing import Measured as Measured
from .writing import changed_options as changed_options
from .writing import files_table as files_table
from .writing import public_name as public_name
from .writing import wide_files as wide_files
from .writing import write_card as write_card
