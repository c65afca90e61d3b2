import torch
from torch.distributions import Distribution
class JoinedDistribution(Distribution):
    def __init__(self, parts):
        self.parts=list(parts); super().__init__(validate_args=False)
    @property
    def mean(self): return torch.cat([p.mean for p in self.parts],-1)
    def sample(self, s=torch.Size()): return torch.cat([p.sample(s) for p in self.parts],-1)
