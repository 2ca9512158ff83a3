"""Why an attempt failed: `diagnose(Evidence) -> Diagnosis`, a pure function of logs, exit code and Slurm's record.

loglines     a line without its prefixes: who printed it, on which node and rank, when
tracebacks   the exceptions in a log, unwrapped from Ray's
causes.yaml  every cause: its title, whose fault it is, the patterns that show it, what to type
vocabulary   reads that
signs_*      what shows a cause where a pattern is not enough: one small function each
phases       in which part of a step it happened
first_sign   which of several signs came first
remedies     what to type: a row's words, or a function's where it depends on the config
printed      the config that NeMo RL prints, for logs of which nothing else is known
slurm_record what Slurm says of the job
"""

from nano_exp.triage.diagnosis import Diagnosis, diagnose
from nano_exp.triage.evidence import Evidence
from nano_exp.triage.slurm_record import SlurmRecord
from nano_exp.triage.vocabulary import Cause, causes

__all__ = ["Cause", "Diagnosis", "Evidence", "SlurmRecord", "causes", "diagnose"]
