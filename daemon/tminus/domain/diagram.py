"""The diagram of the transition table, drawn by the library `transitions`.

It is a module of its own, because the library's drawing classes take longer to import than the rest of `tminus`.
"""

from typing import Any

from transitions.extensions import GraphMachine

from tminus.domain.lifecycle import INITIAL, definition


class _Model:
    """The model that `GraphMachine` requires: it stores the diagram as its attribute."""


def mermaid() -> str:
    """Return the transition table as a Mermaid state diagram, without the colours that `GraphMachine` adds."""
    model = _Model()
    machine = GraphMachine(model, **definition(), graph_engine="mermaid")
    graph: Any = machine.model_graphs[id(model)].get_graph()
    edges = [line.strip() for line in graph.source.splitlines() if "-->" in line and not line.endswith(INITIAL)]
    return "\n".join(("stateDiagram-v2", *(f"    {edge.replace(INITIAL, '[*]')}" for edge in edges)))
