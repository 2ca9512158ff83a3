"""Why an attempt failed: `diagnose(Evidence) -> Diagnosis`, a pure function of logs, exit code and Slurm's record.

loglines     a line without its prefixes: who printed it, on which node and rank, when
tracebacks   the exceptions in a log, unwrapped from Ray's
vocabulary   every cause: its title, whose fault it is, whether it may be the echo of another
signs_*      what shows a cause: one small function each
phases       in which part of a step it happened
judge        which of several signs came first
remedies     what to type
printed      the config that NeMo RL prints, for logs of which nothing else is known
slurm_record what Slurm says of the job
"""

from nano_exp.triage.diagnosis import Diagnosis, diagnose
from nano_exp.triage.evidence import Evidence
from nano_exp.triage.slurm_record import SlurmRecord
from nano_exp.triage.vocabulary import Cause, causes

__all__ = ["Cause", "Diagnosis", "Evidence", "SlurmRecord", "causes", "diagnose"]
