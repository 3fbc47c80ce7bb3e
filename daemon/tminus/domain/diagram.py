"""The machine's own diagram. Apart from `lifecycle`, as drawing takes longer to import than all else of the command."""

from typing import Any

from transitions.extensions import GraphMachine

from tminus.domain.lifecycle import INITIAL, definition


class _Model:
    """What `GraphMachine` hangs a diagram on."""


def mermaid() -> str:
    """Return the transition table as a Mermaid state diagram, as the machine draws it; without its colours."""
    model = _Model()
    machine = GraphMachine(model, **definition(), graph_engine="mermaid")
    graph: Any = machine.model_graphs[id(model)].get_graph()
    edges = [line.strip() for line in graph.source.splitlines() if "-->" in line and not line.endswith(INITIAL)]
    return "\n".join(("stateDiagram-v2", *(f"    {edge.replace(INITIAL, '[*]')}" for edge in edges)))
