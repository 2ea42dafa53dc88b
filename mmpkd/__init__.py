"""Multimodal privileged knowledge distillation; see https://mmpkd.github.io/mmpkd

    import mmpkd
    cohort = mmpkd.phantom_cohort(mmpkd.write_phantom('phantom'))
    run = mmpkd.run_experiment(cohort, 'my-run')
    mmpkd.write_report(run, cohort)

The names of `mmpkd.__all__` are imported when they are first used, so that `import mmpkd` is fast."""
import os, sys, warnings
from importlib import import_module
from types import ModuleType

__version__ = "0.2.0"

# read when torch is imported: threads that wait sleep soon, rather than keep a core
os.environ.setdefault('GOMP_SPINCOUNT', '1')
warnings.filterwarnings('ignore', message='.torch.jit.script. is') # deprecated; fastai uses it when it is imported

_NAMES_OF = { # module: the names it gives to the package; __init__.pyi says the same to editors
    'cohort': ['Cohort'],
    'images': ['cache_pixels'],
    'mimic': ['mimic_cohort'],
    'cbis': ['cbis_cohort'],
    'busbra': ['busbra_cohort'],
    'phantoms.chest': ['phantom_cohort', 'write_phantom'],
    'audit': ['audit'],
    'teachers': ['make_teacher', 'teacher_table'],
    'soft_labels': ['soft_labels'],
    'losses': ['DistillationLoss'],
    'arms': ['Arm'],
    'training': ['Training'],
    'student': ['Student', 'train_student'],
    'attention': ['attention_maps'],
    'convention': ['Convention', 'MapSpec'],
    'scoring': ['score_maps'],
    'statistics': ['compare_arms', 'verdict'],
    'settings': ['Settings', 'make_config'],
    'results': ['Experiment'],
    'experiment': ['run_experiment'],
    'report': ['figure1', 'table1', 'write_report']}
_HOME = {name: module for module, names in _NAMES_OF.items() for name in names}
_CALLABLE = [name for name, module in _HOME.items() if name == module]

__all__ = ['__version__', *_HOME]


class _Module(ModuleType):
    "A module that can be pickled by its name, as cloudpickle does with ordinary ones"
    def __reduce__(self): return import_module, (self.__name__,)


class _CallableModule(_Module):
    "A module with a function of its own name, which is called when the module is: `mmpkd.audit(cohort)`"
    @property
    def _function(self): return vars(self)[self.__name__.rpartition('.')[2]]

    @property
    def __signature__(self):
        from inspect import signature
        return signature(self._function)

    def __call__(self, *args, **kwargs): return self._function(*args, **kwargs)


class _Package(_Module):
    "Importing a submodule sets it as an attribute of the package; here it becomes callable on that occasion"
    def __setattr__(self, name, value):
        if name in _CALLABLE and isinstance(value, ModuleType):
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module = import_module(f'.{_HOME[name]}', __name__)
    if name in _CALLABLE:
        return module
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__(): return sorted({*globals(), *_HOME})


sys.modules[__name__].__class__ = _Package
