"""How hypothesis searches here: enough examples to find what is wrong, few enough that all unit tests take seconds."""

from hypothesis import HealthCheck, settings

settings.register_profile("unit", max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")
