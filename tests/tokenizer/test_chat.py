import time

import pytest

from ferrum_jax.tokenizer import ChatTemplates
from ferrum_jax.types.errors import RequestError, TokenizerError

HELLO = [{"role": "user", "content": " hi "}]


def render(template, messages=HELLO, **variables):
    return ChatTemplates({"default": template}, {"bos_token": "<s>"}).render(messages, **variables)


def test_a_plain_template():
    template = (
        "{{ bos_token }}{% for m in messages %}\n"
        "    {% if m['role'] == 'user' %}\n"
        "U: {{ m.content | trim }}\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}A:{% endif %}"
    )
    assert render(template) == "<s>U: hi\nA:"
    assert render(template, add_generation_prompt=False) == "<s>U: hi\n"


def test_macros_namespaces_and_loop_controls():
    template = (
        "{% macro show(m) %}<{{ m.role }}>{{ caller() }}{% endmacro %}"
        "{% set ns = namespace(n=0, text='') %}"
        "{% for m in messages %}"
        "{% if m.content == 'skip' %}{% continue %}{% endif %}"
        "{% if m.content == 'end' %}{% break %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% set ns.text = ns.text ~ m.content %}"
        "{% call show(m) %}{{ loop.index }}{{ loop.last }}{% endcall %}"
        "{% endfor %}|{{ ns.n }}|{{ ns.text }}"
    )
    messages = [{"role": "u", "content": text} for text in ("a", "skip", "b", "end", "c")]
    assert render(template, messages) == "<u>1False<u>3False|2|ab"


def test_loop_features_survive_the_metering():
    template = (
        "{% for a, b in [(1, 2), (3, x)] if b > 1 %}{{ a + b }}{{ loop.length }},{% endfor %}"
        "{% for n in tree recursive %}{{ n.v }}{% if n.c %}({{ loop(n.c) }}){% endif %}{% endfor %}"
        "{{ messages[1:] | length }}{{ {'k': x}.k }}{{ range(3) | list }}{{ 'ab'[::-1] }}"
        "{% for q in [] %}{% else %}none{% endfor %}"
    )
    tree = [{"v": 1, "c": [{"v": 2}, {"v": 3}]}]
    assert render(template, x=4, tree=tree) == "32,72,1(23)04[0, 1, 2]banone"


def test_json_is_not_escaped():
    tools = [{"name": "<f> & 'é'", "n": 1}]
    assert render("{{ tools | tojson }}", tools=tools) == """[{"name": "<f> & 'é'", "n": 1}]"""
    assert render("{{ {'a': x} | tojson(indent=2) }}", x=1) == '{\n  "a": 1\n}'


def test_usual_filters_and_methods():
    template = (
        "{{ messages | map(attribute='role') | join(', ') }} {{ 'a-b'.split('-') | last }} "
        "{{ '%s=%d' % ('x', 3) }} {{ '{}:{:>3}'.format('y', 4) }} {{ 'aXbX'.replace('X', '') }} "
        "{{ ', '.join(['p', 'q']) }} {{ none is none }} {{ missing is defined }} "
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} "
        "{{ 'two\nlines' | indent(2) }} {{ {'b': 1}.items() | list }} {{ 'x' | upper ~ 5 }}"
    )
    expected = "user b x=3 y:  4 ab p, q True False 1 two\n  lines [('b', 1)] X5"
    assert render(template) == expected


def test_generation_blocks_and_undefined_variables_render():
    assert render("{% generation %}a{{ x }}{% endgeneration %}b", x=1) == "a1b"
    assert render("[{{ nothing }}]") == "[]"


def test_time_is_there():
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


def test_a_template_may_refuse():
    with pytest.raises(RequestError, match="refuses the conversation: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_named_templates():
    chat = ChatTemplates({"default": "D", "tool_use": "T", "rag": "R"}, {})
    assert chat.default == "D"
    assert chat.render(HELLO) == "D"
    assert chat.render(HELLO, tools=[{"name": "f"}]) == "T"
    assert chat.render(HELLO, chat_template="rag") == "R"
    assert chat.render(HELLO, chat_template="{{ messages | length }}") == "1"


def test_no_template_says_so():
    with pytest.raises(TokenizerError, match="no default chat template"):
        ChatTemplates({}, {}).render(HELLO)


def test_messages_must_be_plain_data():
    with pytest.raises(RequestError, match=r"messages\[0\].content"):
        render("x", [{"role": "user", "content": object()}])
    endless = []
    endless.append(endless)
    with pytest.raises(RequestError):
        render("x", endless)


@pytest.mark.parametrize(
    "template",
    [
        "{{ lipsum.__globals__['os'].popen('id') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['sys'] }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.__globals__ }}",
        "{{ ('' | attr('__class__')).mro() }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
        "{{ ['{0.__class__.__mro__}'] | map('format', 1) | map(attribute='__class__') | list }}",
        "{{ self._TemplateReference__context.environment.meter }}",
        "{% set ns = namespace(_Namespace__attrs=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% include 'other' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ lipsum(100) }}",
        "{{ 'x' | urlize }}",
        "{{ 'x'.encode('punycode') }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ undefined_function() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "x" * (2**18 + 1),
    ],
)
def test_what_the_sandbox_refuses(template):
    with pytest.raises(TokenizerError):
        render(template)


BOMBS = {
    "range": "{{ range(10**9) | list }}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "squares": "{% set ns = namespace(x=3) %}{% for i in range(99) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "repeat": "{{ 'a' * 10**9 }}",
    "repeat_list": "{{ [x] * 10**9 }}",
    "repeat_left": "{{ 10**9 * 'a' }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent_star": "{{ '%*d' % (10**9, 1) }}",
    "percent_fields": "{% set a = 'a' * 8000000 %}{{ ('%(a)s' * 1000) % {'a': a} }}",
    "percent_filter": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format_star": "{{ '{:{w}}'.format(1, w=10**9) }}",
    "format_fields": "{% set a = 'a' * 8000000 %}{{ ('{0}' * 1000).format(a) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "strftime": "{{ strftime_now('%1000000000d') }}",
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "zfill": "{{ 'a'.zfill(10**9) }}",
    "to_bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "center": "{{ 'a' | center(10**9) }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "indent": "{{ ('\n' * 100000) | indent(100000) }}",
    "json_indent": "{{ [[[1]]] | tojson(indent=10**9) }}",
    "replace": "{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}",
    "replace_filter": "{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}",
    "join": "{% set a = 'a' * 100000 %}{{ a.join(a) }}",
    "join_filter": "{% set a = 'a' * 100000 %}{{ a | join(a) }}",
    "concat": "{% set ns = namespace(x='a') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "add": "{% set ns = namespace(x='a') %}{% for i in range(99) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "block_set": "{% set ns = namespace(x='a') %}{% for i in range(99) %}"
    "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "nested_lists": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested_dicts": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}"
    "{% set ns.x = dict(a=ns.x, b=ns.x).values() %}{% endfor %}{{ ns.x }}",
    "slices": "{% set big = 'a' * 8000000 %}{% set ns = namespace(x=[]) %}"
    "{% for i in range(99999) %}{% set ns.x = [big[1:]] %}{% endfor %}",
    "output": "{% for i in range(100000) %}{{ 'a' * 1000 }}{% endfor %}",
    "fixed_output": "{% for i in range(100000) %}" + "text " * 100 + "{% endfor %}",
    "fixed_in_macro": "{% macro f() %}{% for i in range(100000) %}"
    + "text " * 2000
    + "{% endfor %}{% endmacro %}{% set x = f() %}",
    "sum": "{{ ([['a' * 1000]] * 9999) | sum(start=[]) | length }}",
    "fromkeys": "{% set a = 'a' * 1000 %}{% for i in range(99999) %}"
    "{% set x = dict.fromkeys(range(99999), a) %}{% endfor %}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loop_test": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}"
    "{% endfor %}",
    "sort": "{{ ('ab' * 4000000) | sort | length }}",
    "batch": "{{ ('ab' * 4000000) | batch(3) | list | length }}",
    "lazy_filters": "{% for i in range(99999) %}"
    "{% set x = range(99999) | select('odd') | list %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(90) }}",
    "blocks": "{% set ns = namespace(d=0) %}{% for i in range(99999) %}{{ messages | sort("
    "attribute='role') | map('upper') | list | length }}{% endfor %}",
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bombs_end_in_bounded_time_and_size(name, monkeypatch):
    monkeypatch.setattr("ferrum_jax.tokenizer.meter.MAX_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(TokenizerError):
        render(BOMBS[name])
    assert time.monotonic() - start < 5


def test_the_template_works_again_after_a_limit():
    chat = ChatTemplates({"default": "{{ 'a' * n }}"}, {})
    with pytest.raises(TokenizerError, match="more than 8388608"):
        chat.render(HELLO, n=10**9)
    assert chat.render(HELLO, n=3) == "aaa"


def test_a_long_conversation_is_no_bomb():
    messages = [{"role": "user", "content": "word " * 400}] * 1000
    template = (
        "{% set ns = namespace(seen='') %}{% for m in messages %}{{ m.role }}: {{ m['content'] }}\n"
        "{% set ns.seen = m.content %}{% endfor %}"
    )
    assert len(render(template, messages)) == 1000 * 2007
