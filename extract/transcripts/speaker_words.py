"""Words that stand where the name of a speaker could, and names that programs give to speakers."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(word.replace("_", " ") for word in text.split())


# Before a colon at the beginning of a sentence, also if it recurs; compared without case. Underscores are spaces.
NOT_NAMES = _words(
    """
    remember remember_this note notes nb n.b. listen look see wait warning caution attention danger important notice
    tip hint fact facts fun_fact example examples for_example e.g. i.e. ps p.s. pps p.p.s. also plus update edit
    breaking breaking_news news headline title subject topic date time place location address phone email e-mail tel
    fax url website web link source sources credit credits translation translated_by translator subtitle subtitles
    subtitles_by subtitled_by captions captions_by captioned_by captioning sync synced_by synchronized_by
    corrected_by music music_by lyrics song chorus verse bridge intro outro directed_by written_by produced_by total
    result results score price cost conclusion summary problem solution reason rule rules step part chapter episode
    season scene act day week month year level round lesson unit section page figure table item point number no yes
    ok okay well so but and or then now next first second third last finally again still here there this that these
    those today tomorrow tonight yesterday think imagine guess ask tell say said says repeat correction spoiler
    disclaimer however because therefore meaning like including namely bottom_line my_point my_question one_thing
    first_thing last_thing one_more_thing good_news bad_news long_story_short in_short in_other_words in_conclusion
    in_summary to_summarize the_truth the_truth_is the_problem the_problem_is the_question the_question_is
    the_answer the_answer_is the_result the_thing the_thing_is the_point the_point_is here's_the_thing
    here_is_the_thing let_me_be_clear i_repeat i_said he_said she_said they_said we_said you_said i_mean i_say
    and_then but_then breaking_down http https ftp mailto file achtung hinweis warnung merke wichtig beispiel
    zum_beispiel z.b. d.h. das_heißt übrigens untertitel fazit ergebnis remarque exemple par_exemple rappel
    rappelle-toi rappelez-vous souviens-toi souvenez-vous écoute écoutez regarde regardez attends attendez
    sous-titres avertissement nota recuerda recuerde recuerden atención cuidado escucha escuchen mira miren espera
    ejemplo por_ejemplo advertencia importante subtítulos ricorda ricordate attenzione ascolta ascoltate guarda
    esempio per_esempio sottotitoli lembre-se lembra-te atenção escuta exemplo por_exemplo aviso legendas внимание
    помни помните запомни запомните например слушай слушайте смотри смотрите важно итак вопрос ответ 注意 记住 記住
    例如 比如 警告 问题 問題 答案 结论 結論 他说 她说 我说 他們說 他说道 她说道 例えば 重要 주의 예 예를_들어 중요
    """
)
# The same with a number: "Step 1:", "Rule number one:".
_NUMBERED = _words(
    """
    step part chapter episode season scene act day week month year level round lesson unit section page figure table
    item point number rule question answer option phase stage case exhibit line verse take game set match room floor
    gate flight version volume vol track task test plan tip fact reason problem exercise question problem top
    schritt teil kapitel folge tag regel frage étape partie chapitre jour règle paso parte capítulo día regla passo
    giorno regola шаг часть глава день правило
    """
)
_NUMBERS = _words(
    "one two three four five six seven eight nine ten first second third last i ii iii iv v vi vii viii ix x"
)
# In brackets, "[laughs] Really?": what is heard, not who says it. Any such word, or a word that begins so.
_SOUNDS = _words(
    """
    sigh sighs sighing sob sobs sobbing cry cries crying weeping wailing panting yells yelling sing sings singing
    hum hums humming talking door doors phone cell ring rings ringing bell bells bang bangs thud crash car cars horn
    horns honks wind rain gun gunfire gunshot gunshots shot shots siren sirens dog dogs barks barking birds chirping
    footsteps speaking speaks radio tv television blank audio overlapping bleep instrumental theme end video clip
    sound sounds sfx echo echoing muffled kiss kisses water fire alarm alarms clock ticking typing silence silent
    pause pauses noise noises static playing plays continues continuing beat in on over off offscreen off-screen
    o.s. v.o. voice-over voiceover translated translation english spanish french german italian russian chinese
    mandarin cantonese japanese korean arabic hindi hebrew latin portuguese polish turkish dutch swedish verse
    chorus bridge both all_laugh risas risa ríe rires rire rit lacht lachen lachend gelächter música musica musique
    musik aplausos applaudissements applausi risate suspira soupire seufzt смех смеётся смеется музыка аплодисменты
    вздыхает ため息 悲鳴 笑 笑い 笑声 大笑 掌声 音楽 音乐 音樂 拍手 鼓掌 박수 음악 웃음
    """
)
_SOUND_STEMS = (
    *("laugh", "chuckl", "giggl", "snicker", "gasp", "groan", "moan", "grunt", "scream", "shout", "whisper", "mumbl"),
    *("mutter", "murmur", "sniff", "snor", "cough", "throat", "breath", "exhal", "inhal", "yawn", "music", "applau"),
    *("clapp", "cheer", "crowd", "chatter", "knock", "inaudib", "unintellig", "indistinct", "foreign", "crosstalk"),
    *("cross-talk", "background", "rumbl", "squeal", "screech", "creak", "slam", "rattl", "rustl", "clatter", "clank"),
    *("jingl", "chim", "explos", "thunder", "buzz", "beep", "click", "whistl", "expletive", "censored", "engine"),
)
_SPEAKER = (
    r"(?:unknown |unidentified )?(?:speaker|spkr|spk|participant|person|guest|user|caller|voice|interviewer|"
    r"interviewee|sprecher|sprecherin|teilnehmer|locuteur|orateur|intervenant|hablante|orador|interlocutor|falante|parlante|"
    r"спикер|говорящий|участник)"
)
_DEVICE = (
    r"(?:[\w .-]{1,30}['’]s? )?(?:iphone|ipad|ipod|imac|macbook|macbook pro|macbook air|android|galaxy [\w +-]{1,20}|"
    r"pixel [\w ]{1,12}|sm-\w{3,8}|desktop-\w{3,12}|laptop-\w{3,12}|zoom user)"
    r"(?: ?\(?\d{1,3}\)?|(?: (?:von|de|di|van|da) [\w .-]{1,30}))?"
)
_MACHINE = re.compile(
    rf"{_SPEAKER}(?:[ _:-]{{0,2}}#?(?:\d{{1,4}}|[a-z]))|(?:unknown|unidentified)[ _]speaker|"
    rf"spk[_-]?\d{{1,3}}|(?:说话人|說話人|发言人|發言人|講者|讲者|話者|スピーカー|화자|참석자) ?\d{{1,3}}|{_DEVICE}"
)
_NUMBERED_VOICE = re.compile(r"(?:speaker|spkr|spk)[_-]\d{1,3}", re.IGNORECASE)


def is_program_name(name: str) -> bool:
    """Whether recognisers and meeting tools name speakers so: "SPEAKER_00", "Speaker 1", "Participant 12", "iPhone"."""
    return len(name) <= 60 and _MACHINE.fullmatch(name.casefold()) is not None


def is_diarised(word: str) -> bool:
    """Whether a word can only be a recogniser's name, with or without a delimiter: "SPEAKER_00"."""
    return _NUMBERED_VOICE.fullmatch(word) is not None


def is_ordinary(name: str) -> bool:
    """Whether words before a colon are no name, as in "Remember:" and "Step 1:"."""
    folded = name.casefold().strip(" .!")
    words = folded.split()
    if folded in NOT_NAMES or f"{folded}." in NOT_NAMES:
        return True
    return len(words) > 1 and words[0] in _NUMBERED and (words[-1] in _NUMBERS or words[-1].strip("#.").isdecimal())


def is_sound(name: str) -> bool:
    """Whether words in brackets describe what is heard, as in "[door opens]"."""
    words = [word.strip(".,;!?*-") for word in name.casefold().split()]
    if any(word in _SOUNDS or word.startswith(_SOUND_STEMS) for word in words):
        return True
    return len(words) == 1 and (
        len(words[0]) >= 6 and words[0].endswith("ing") or words[0].endswith(("音", "声", "聲"))
    )
