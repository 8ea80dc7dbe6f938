"""Contents of messages as templates of vision models read them: texts, or lists of parts."""

from adapters.chat_template.form import Form, to_template_message
from adapters.chat_template.probing import Probe
from adapters.chat_template.template import JinjaTemplates, answer_probe
from adapters.mlx.prompt.learned import learn_from_texts
from adapters.request import ImagePart, Message, TextPart

LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""After llava-hf/llava-1.5-7b-hf."""
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""After HuggingFaceTB/SmolVLM2-2.2B-Instruct."""
QUESTION = Message(
    role="user",
    content=(TextPart("a"), ImagePart("data:x"), TextPart("b"), TextPart("c")),
)
SILENT = Message(role="assistant")


def rendered(template: str, *messages: Message) -> str:
    learned = learn_from_texts({"default": template}, {})
    text = answer_probe(
        JinjaTemplates({"default": template}, {}), Probe(messages, form=learned.plan.form)
    )
    assert isinstance(text, str)
    return text


def test_template_that_shows_parts_only_gets_parts() -> None:
    text = rendered(LLAVA, Message(role="user", content=(TextPart("Hi"),)))
    assert text == "USER: Hi ASSISTANT:"


def test_images_come_where_the_template_puts_them() -> None:
    assert rendered(LLAVA, QUESTION) == "USER: <image>\na b\nc ASSISTANT:"
    assert rendered(SMOLVLM, QUESTION) == (
        "<|im_start|>User: a<image>b\nc<end_of_utterance>\nAssistant:"
    )


def test_message_without_text_has_a_first_part() -> None:
    text = rendered(SMOLVLM, QUESTION, SILENT, QUESTION)
    assert "\nAssistant: <end_of_utterance>\n" in text


def test_text_takes_the_place_of_images_where_there_are_no_parts() -> None:
    assert to_template_message(QUESTION, Form(image="<image>")) == {
        "role": "user",
        "content": "a\n<image>\nb\nc",
    }


def test_text_without_images_stays_a_text() -> None:
    message = Message(role="user", content=(TextPart("a"), TextPart("b")))
    assert to_template_message(message) == {"role": "user", "content": "a\nb"}
