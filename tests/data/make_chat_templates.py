"""Writes chat_templates.json: chat templates as fine-tunes of Gemma have them, conversations, and the text and the token ids that
transformers' `apply_chat_template` makes of each, or the error that it raises. Run: python make_chat_templates.py (transformers 5)."""

import json
import pathlib
import tempfile

from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}
        {%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
    {%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {{ '<start_of_turn>' + ("model" if message['role'] == 'assistant' else message['role']) + '\\n' + (prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{% endif %}"""
CHATML_TRIM = """{{ bos_token }}{% if messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{% for message in messages %}{% generation %}<|im_start|>{{ message.role }}
{{ message.content.strip() }}<|im_end|>
{% endgeneration %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SYSTEM_TURN = GEMMA.replace("{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}", "").replace(
    "(message['role'] == 'user') != (loop.index0 % 2 == 0)", "message['role'] not in ['user', 'assistant', 'system']")
DEVELOPER = """{{ bos_token }}{%- if tools or messages[0]['role'] == 'system' %}
    {{- '<start_of_turn>developer\\n' }}
    {%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] | trim }}{% endif %}
    {%- for tool in tools or [] %}
        {{- '<start_function_declaration>declaration:' + tool.function.name + '{description:<escape>' + tool.function.description + '<escape>' }}
        {%- for name, schema in (tool.function.parameters.properties or {}) | dictsort %}
            {{- ',' if not loop.first else ',parameters:{' }}{{ name }}:{type:<escape>{{ schema.type | upper }}<escape>}
            {%- if loop.last %}{{ '}' }}{% endif %}
        {%- endfor %}
        {{- '}<end_function_declaration>' }}
    {%- endfor %}
    {{- '<end_of_turn>\\n' }}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'tool' %}
        {{- '<start_function_response>response:' + message.name + '{value:<escape>' + message.content + '<escape>}<end_function_response>' }}
    {%- else %}
        {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' + message.content | trim }}
        {%- for call in message.tool_calls or [] %}
            {{- '<start_function_call>call:' + call.function.name + '{' }}
            {%- for key, value in call.function.arguments.items() %}{{ key }}:<escape>{{ value }}<escape>{% if not loop.last %},{% endif %}{% endfor %}
            {{- '}<end_function_call>' }}
        {%- endfor %}
        {%- if not message.tool_calls %}{{- '<end_of_turn>\\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and messages[-1].role != 'tool' %}{{- '<start_of_turn>model\\n' }}{% endif %}"""
HERMES = """{{ bos_token }}{%- set ns = namespace(system='Be brief.') %}
{%- for message in messages %}{%- if message.role == 'system' %}{%- set ns.system = message.content %}{%- endif %}{%- endfor %}
<|im_start|>system
{{ ns.system }}{% if tools %}

# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}<|im_end|>
{% for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- if message.role == 'assistant' and '</think>' in message.content %}
        {%- set said = message.content.split('</think>')[-1].lstrip('\\n') %}
    {%- else %}
        {%- set said = message.content %}
    {%- endif %}
<|im_start|>{{ message.role }}
{{ said }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
PARTS = """{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\\n' }}{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TRANSLATE = """{{ bos_token }}{% for message in messages %}{% if message['content'] is string or message['content'][0]['source_lang_code'] is not defined %}{{ raise_exception('User role must provide `content` with `source_lang_code` and `target_lang_code`') }}{% endif %}{{ '<start_of_turn>user\\n' + message['content'][0]['text'] + '<end_of_turn>\\n' }}{% endfor %}"""
PLAIN_ENDS = """{{ bos_token }}{% for message in messages %}{{ '### ' + message.role + ':\\n' + message.content + '\\n\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"""
EOS_ENDS = """{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}{{ 'ASSISTANT: ' + message.content + eos_token }}{% else %}{{ message.role.upper() + ': ' + message.content + ' ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

IM = ["<|im_start|>", "<|im_end|>"]
CALLS = ["<start_function_declaration>", "<end_function_declaration>", "<start_function_call>", "<end_function_call>",
         "<start_function_response>", "<end_function_response>", "<escape>"]
TOOL = {"type": "function", "function": {"name": "weather", "description": "What it is like <in> a town", "parameters": {
    "type": "object", "properties": {"town": {"type": "string", "description": "Where, é \"quoted\""}, "days": {"type": "integer"}}, "required": ["town"]}}}
USER = [{"role": "user", "content": "  Why is the sky blue?\n"}]
TALK = USER + [{"role": "assistant", "content": " Because of <b>light</b>. "}, {"role": "user", "content": "Says who?"}]
SYSTEM = [{"role": "system", "content": " Be brief.\n"}] + USER
TWICE = USER + [{"role": "user", "content": "And now?"}]
THOUGHT = USER + [{"role": "assistant", "content": "I wonder</think>\nLight."}, {"role": "user", "content": "é \U0001F600 \u200d?"}]
CALL = USER + [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"town": "Rome", "unit": "C"}}}]},
               {"role": "tool", "name": "weather", "content": "sunny"}]
ALL = [USER, TALK, SYSTEM, TWICE, THOUGHT]
# name, template, tokens added, conversations (with tools or without)
TEMPLATES = [
    ("gemma", GEMMA, [], [(c, None) for c in ALL]),
    ("gemma3", GEMMA3, [], [(c, None) for c in ALL]),
    ("chatml", CHATML, IM, [(c, None) for c in ALL]),
    ("chatml that trims", CHATML_TRIM, IM, [(c, None) for c in ALL]),
    ("turns of the system", SYSTEM_TURN, [], [(c, None) for c in ALL]),
    ("developer", DEVELOPER, CALLS, [(c, None) for c in ALL] + [(USER, [TOOL]), (CALL, [TOOL])]),
    ("tools as JSON", HERMES, IM, [(c, None) for c in ALL] + [(SYSTEM, [TOOL])]),
    ("parts", PARTS, IM, [(c, None) for c in ALL]),
    ("translate", TRANSLATE, [], []),
    ("no token ends a turn", PLAIN_ENDS, [], []),
    ("chatml without its tokens", CHATML, [], []),
    ("eos", EOS_ENDS, [], [(c, None) for c in ALL]),
]


def tokenizer(added):
    data = json.loads((HERE / "tokenizers/spm/tokenizer.json").read_text())
    first = len(data["model"]["vocab"])
    for number, content in enumerate(added):
        data["added_tokens"].append({"id": first + number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True})
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        path.write_text(json.dumps(data))
        return PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")


def main():
    out = []
    for name, template, added, conversations in TEMPLATES:
        tok = tokenizer(added)
        tok.chat_template = template
        cases = []
        for messages, tools in conversations:
            for open_turn in (True, False):
                given = messages
                if name == "parts":
                    given = [dict(m, content=[{"type": "text", "text": m["content"]}]) for m in messages]
                case = {"messages": messages, "tools": tools, "add_generation_prompt": open_turn}
                try:
                    case["text"] = tok.apply_chat_template(given, tools=tools, tokenize=False, add_generation_prompt=open_turn)
                    case["ids"] = tok.apply_chat_template(given, tools=tools, tokenize=True, return_dict=False, add_generation_prompt=open_turn)
                except Exception as error:  # what the template raises
                    case["error"] = str(error)
                cases.append(case)
        out.append({"name": name, "template": template, "added": added, "cases": cases})
    (HERE / "chat_templates.json").write_text(json.dumps(out, ensure_ascii=False, indent=None, separators=(",", ":")) + "\n")


main()
