"""Questions compared by what they ask, without a model: what the semantic cache may serve as the same
question.

Pure: no input or output after the tables are read at import. `read_question` once per text, `compare` per
candidate.
"""

from ext_proc.cache.question.compare import compare
from ext_proc.cache.question.guards import Comparison, Guard, Level
from ext_proc.cache.question.question import Question, read_question

__all__ = ["Comparison", "Guard", "Level", "Question", "compare", "read_question"]
