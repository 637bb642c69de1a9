from .latency import Latency as Latency
from .latency import interleaved_latency_ms as interleaved_latency_ms
from .measuring import Footprint as Footprint
from .measuring import footprint as footprint
from .text import Row as Row
from .text import footprint_notes as footprint_notes
from .text import footprint_rows as footprint_rows
from .text import footprint_table as footprint_table
