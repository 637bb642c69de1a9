from .latency import Latency as Latency
from .latency import device_of as device_of
from .latency import interleaved_latency_ms as interleaved_latency_ms
from .measuring import Footprint as Footprint
from .measuring import footprint as footprint
from .text import footprint_section as footprint_section
from .text import footprint_table as footprint_table
