"""Chat templates that need no file, for base models whose tokenizers have none."""

TEMPLATES = {
    "alpaca": (
        "{{ bos_token or '' }}"
        "{% for message in messages %}"
        "{% if message.role == 'assistant' %}### Response:\n{{ message.content }}{{ eos_token }}"
        "{% elif message.role == 'user' %}### Instruction:\n{{ message.content }}"
        "{% else %}{{ message.content }}{% endif %}"
        "{{ '\n\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
}
"""By the name that `chat.template` may have: text under headings, as Alpaca writes it."""
