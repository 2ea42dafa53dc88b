"Multimodal privileged knowledge distillation; see https://mmpkd.github.io/mmpkd"
import os

__version__ = "0.1.0"

os.environ.setdefault('GOMP_SPINCOUNT', '1000') # read when torch is imported: threads that wait sleep soon, rather than keep a core
