"""Languages of speech: codes of ISO 639-1, which requests have, and the names in answers.

Source: the tokens of languages of Whisper's tokenizer.
"""

_TABLE = """
en=english zh=chinese de=german es=spanish ru=russian ko=korean fr=french
ja=japanese pt=portuguese tr=turkish pl=polish ca=catalan nl=dutch ar=arabic
sv=swedish it=italian id=indonesian hi=hindi fi=finnish vi=vietnamese he=hebrew
uk=ukrainian el=greek ms=malay cs=czech ro=romanian da=danish hu=hungarian ta=tamil
no=norwegian th=thai ur=urdu hr=croatian bg=bulgarian lt=lithuanian la=latin
mi=maori ml=malayalam cy=welsh sk=slovak te=telugu fa=persian lv=latvian bn=bengali
sr=serbian az=azerbaijani sl=slovenian kn=kannada et=estonian mk=macedonian
br=breton eu=basque is=icelandic hy=armenian ne=nepali mn=mongolian bs=bosnian
kk=kazakh sq=albanian sw=swahili gl=galician mr=marathi pa=punjabi si=sinhala
km=khmer sn=shona yo=yoruba so=somali af=afrikaans oc=occitan ka=georgian
be=belarusian tg=tajik sd=sindhi gu=gujarati am=amharic yi=yiddish lo=lao uz=uzbek
fo=faroese ht=haitian_creole ps=pashto tk=turkmen nn=nynorsk mt=maltese sa=sanskrit
lb=luxembourgish my=myanmar bo=tibetan tl=tagalog mg=malagasy as=assamese tt=tatar
haw=hawaiian ln=lingala ha=hausa ba=bashkir jw=javanese su=sundanese yue=cantonese
"""
_NAMES = {code: name for code, _, name in (p.partition("=") for p in _TABLE.split())}
_CODES = {name.replace("_", " "): code for code, name in _NAMES.items()}


def to_code(language: str) -> str:
    """Return the code of a language that is given by code, by name, or with a region (`en-US`)."""
    text = language.strip().lower().replace("_", "-")
    return _CODES.get(text.replace("-", " "), text.partition("-")[0])


def to_name(code: str | None) -> str:
    """Return a language's name as OpenAI writes it, such as `english`."""
    if code is None:
        return "unknown"
    return _NAMES.get(code, code).replace("_", " ")
