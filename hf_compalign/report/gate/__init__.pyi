from .junit import as_junit as as_junit
from .junit import write_junit as write_junit
from .markdown import as_summary as as_summary
from .markdown import write_summary as write_summary
