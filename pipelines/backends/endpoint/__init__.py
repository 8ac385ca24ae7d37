"""Hosted models that speak OpenAI's HTTP API, behind `ports.Generator` and `ports.Embedder`; see `client`."""

from pipelines.backends.endpoint.embedder import EndpointEmbedder
from pipelines.backends.endpoint.generator import EndpointGenerator

__all__ = ["EndpointEmbedder", "EndpointGenerator"]
