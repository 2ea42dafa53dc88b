# What an editor and a type checker read: the names that mmpkd/__init__.py imports when they are first used.
__version__: str

from .arms import Arm as Arm
from .attention import attention_maps as attention_maps
from .audit import audit as audit
from .busbra import busbra_cohort as busbra_cohort
from .cbis import cbis_cohort as cbis_cohort
from .cohort import Cohort as Cohort
from .convention import Convention as Convention, MapSpec as MapSpec
from .experiment import run_experiment as run_experiment
from .images import cache_pixels as cache_pixels
from .losses import DistillationLoss as DistillationLoss
from .mimic import mimic_cohort as mimic_cohort
from .phantoms.chest import phantom_cohort as phantom_cohort, write_phantom as write_phantom
from .report import figure1 as figure1, table1 as table1, write_report as write_report
from .results import Experiment as Experiment
from .scoring import score_maps as score_maps
from .settings import Settings as Settings, make_config as make_config
from .soft_labels import soft_labels as soft_labels
from .statistics import compare_arms as compare_arms, verdict as verdict
from .student import Student as Student, train_student as train_student
from .teachers import make_teacher as make_teacher, teacher_table as teacher_table
from .training import Training as Training
