"""Puts a meter's calls into a template's syntax tree.

The calls are filters whose names no template can write, because they begin with a space.
"""

from __future__ import annotations

from jinja2 import Environment, nodes
from jinja2.visitor import NodeTransformer

TICK, HOLD, CONCAT, PASS = " tick", " hold", " concat", " pass"


def rewrite(template: nodes.Template, environment: Environment) -> nodes.Template:
    """The same template, with loops, macros, literals, slices and fixed text metered."""
    template = _Rewriter().visit(template)
    template.set_environment(environment)
    return template


class _Rewriter(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        # The condition of `for x in y if condition` runs for items that never reach the body.
        if node.test is not None:
            node.test = _filter(node.test, PASS)
        return _tick_body(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return _tick_body(self.generic_visit(node))

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return _tick_body(self.generic_visit(node))

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        return _tick_body(self.generic_visit(node))

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:
        self.generic_visit(node)
        fixed = sum(len(part.data) for part in node.nodes if isinstance(part, nodes.TemplateData))
        return [_tick(fixed, node.lineno), node] if fixed else [node]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), CONCAT)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, HOLD) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _hold(self.generic_visit(node), node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _hold(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _hold(self.generic_visit(node), [pair.value for pair in node.items])


def _hold(node: nodes.Node, items: list[nodes.Expr]) -> nodes.Node:
    """Measure a list or dict where it is made, unless it consists of constants."""
    if all(isinstance(item, nodes.Const) for item in items):
        return node
    return _filter(node, HOLD)


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _tick(cost: int, line: int) -> nodes.Node:
    return nodes.ExprStmt(_filter(nodes.Const(cost, lineno=line), TICK), lineno=line)


def _tick_body(node: nodes.Node) -> nodes.Node:
    node.body = [_tick(1, node.lineno), *node.body]  # pyright: ignore[reportAttributeAccessIssue]
    return node
