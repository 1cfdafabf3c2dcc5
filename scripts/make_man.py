#!/usr/bin/env python3
"""Man pages and shell completions, made of what the program says of its own options.

    python3 scripts/make_man.py build/release/kronq OUT    # OUT/man1/kronq*.1, OUT/kronq.bash, OUT/_kronq (zsh), OUT/kronq.fish

`kronq help --json` prints every command with its usage, its text and its options, from the program's table of settings; nothing about an option is written here.
Needs Python 3.9 and nothing else.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys


def roff(text):
    """Text as a man page has it: no line begins with a dot or a quote, hyphens stay hyphens, backslashes are themselves."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def option_words(option):
    words = [f"\\-{option['letter']}"] if option["letter"] else []
    name = roff(option["name"])
    words.append(f"\\-\\-{name}")
    if option["type"] == "no-flag":
        words.append(f"\\-\\-no\\-{name}")
    return ", ".join(f"\\fB{w}\\fR" for w in words) + (f" \\fI{roff(option['argument'])}\\fR" if option["argument"] else "")


def option_text(option):
    text = option["help"]
    if option.get("methods"):
        text = ", ".join(option["methods"]) + ": " + text
    return text + (f". Default: {option['default']}." if option["default"] else ".")


def about(text):
    """Paragraphs; indented lines are examples and keep their lines."""
    out = []
    for block in re.split(r"\n\n", text):
        lines = block.split("\n")
        if all(line.startswith(" ") for line in lines if line):
            out += [".PP", ".nf", ".RS 4", *(roff(line.strip()) for line in lines), ".RE", ".fi"]
        else:
            out += [".PP", *(roff(line) for line in lines)]
    return out


def man_page(command, version):
    name = f"kronq-{command['command']}"
    out = [f".TH {name.upper()} 1 \"\" \"kronq {version}\" \"kronq\"", ".SH NAME", f"{roff(name)} \\- {roff(command['summary'])}", ".SH SYNOPSIS"]
    for i, line in enumerate(command["usage"].split("\n")):
        words = line.strip().removeprefix("kronq ")
        out += ([".br"] if i else []) + [f"\\fBkronq\\fR {roff(words)}"]
    out += [".SH DESCRIPTION", *about(command["about"])]
    group = None
    out.append(".SH OPTIONS")
    for option in command["options"]:
        if option["group"] and option["group"] != group:
            group = option["group"]
            out.append(f".SS {roff(group[0].upper() + group[1:])}")
        out += [".TP", option_words(option), roff(option_text(option))]
    out += [".SH SEE ALSO", "\\fBkronq\\fR(1)"]
    return "\n".join(out) + "\n"


def main_page(commands, version):
    out = [f".TH KRONQ 1 \"\" \"kronq {version}\" \"kronq\"", ".SH NAME",
           "kronq \\- quantize language models to 2\\-4 bits per weight, guided by the curvature of the loss", ".SH SYNOPSIS",
           "\\fBkronq\\fR \\fICOMMAND\\fR \\fIMODEL\\fR [\\fIoptions\\fR]", ".SH COMMANDS"]
    for command in commands:
        out += [".TP", f"\\fB{command['command']}\\fR", roff(command["summary"]) + f". See \\fBkronq\\-{command['command']}\\fR(1)."]
    out += [".SH ENVIRONMENT", ".TP", "\\fBKRONQ_ISA\\fR", "The instruction set to use at most, where \\-\\-isa is not given.",
            ".TP", "\\fBKRONQ_API_KEY\\fR", "The key of \\fBkronq serve\\fR, where \\-\\-api\\-key is not given."]
    return "\n".join(out) + "\n"


def shell_options(command):
    words = []
    for option in command["options"]:
        words.append(f"--{option['name']}")
        if option["type"] == "no-flag":
            words.append(f"--no-{option['name']}")
        if option["letter"]:
            words.append(f"-{option['letter']}")
    return words + ["--help"]


def bash(commands):
    names = " ".join(c["command"] for c in commands)
    cases, values = [], []
    for c in commands:
        cases.append(f"        {c['command']}) options=\"{' '.join(shell_options(c))}\" ;;")
        for o in c["options"]:
            if o["words"]:
                values.append(f"        {c['command']}:--{o['name']}) words=\"{' '.join(o['words'])}\" ;;")
    return f"""# bash completion of kronq, made by scripts/make_man.py
_kronq() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} command=${{COMP_WORDS[1]}} options words=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{names} help" -- "$word"))
        return
    fi
    if [ "$command" = help ]; then
        COMPREPLY=($(compgen -W "{names}" -- "$word"))
        return
    fi
    case "$command" in
{chr(10).join(cases)}
        *) return ;;
    esac
    case "$command:$before" in
{chr(10).join(values)}
    esac
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    elif [ "${{word#-}}" != "$word" ]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
    else
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}}
complete -F _kronq kronq
"""


def quoted(text):
    return "'" + text.replace("'", "'\\''") + "'"


def zsh(commands):
    out = ["#compdef kronq", "# zsh completion of kronq, made by scripts/make_man.py", "_kronq() {", "    local -a commands", "    commands=("]
    out += [f"        {quoted(c['command'] + ':' + c['summary'].replace(':', ' -'))}" for c in commands]
    out += ["    )", "    if (( CURRENT == 2 )); then", "        _describe command commands", "        return", "    fi", "    local command=$words[2]", "    shift words",
            "    (( CURRENT-- ))", "    case $command in"]
    for c in commands:
        out.append(f"        {c['command']})")
        specs = []
        for o in c["options"]:
            help_text = re.sub(r"[\[\]:]", " ", o["help"])
            value = ""
            if o["argument"]:
                value = f":{re.sub(r'[^A-Za-z0-9_.-]', ' ', o['argument'])}:" + (f"({' '.join(o['words'])})" if o["words"] else "_files")
            for word in [f"--{o['name']}"] + ([f"--no-{o['name']}"] if o["type"] == "no-flag" else []) + ([f"-{o['letter']}"] if o["letter"] else []):
                specs.append(quoted(f"{word}[{help_text}]{value}"))
        specs.append("'*:model:_files'")
        out += ["            _arguments \\"] + [f"                {s} \\" for s in specs[:-1]] + [f"                {specs[-1]}", "            ;;"]
    return "\n".join(out + ["    esac", "}", "_kronq \"$@\""]) + "\n"


def fish(commands):
    out = ["# fish completion of kronq, made by scripts/make_man.py"]
    for c in commands:
        out.append(f"complete -c kronq -n __fish_use_subcommand -f -a {c['command']} -d {quoted(c['summary'])}")
        for o in c["options"]:
            words = f" -x -a {quoted(' '.join(o['words']))}" if o["words"] else " -r" if o["argument"] else ""
            letter = f" -s {o['letter']}" if o["letter"] else ""
            for name in [o["name"]] + ([f"no-{o['name']}"] if o["type"] == "no-flag" else []):
                out.append(f"complete -c kronq -n '__fish_seen_subcommand_from {c['command']}'{letter} -l {name}{words} -d {quoted(o['help'])}")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kronq", help="the program")
    parser.add_argument("out", type=pathlib.Path, help="the folder to write to")
    args = parser.parse_args()
    said = json.loads(subprocess.run([args.kronq, "help", "--json"], capture_output=True, check=True).stdout)
    commands = [{"summary": c["summary"], **c["help"]} for c in said["commands"]]
    man = args.out / "man1"
    man.mkdir(parents=True, exist_ok=True)
    (man / "kronq.1").write_text(main_page(commands, said["version"]))
    for command in commands:
        (man / f"kronq-{command['command']}.1").write_text(man_page(command, said["version"]))
    (args.out / "kronq.bash").write_text(bash(commands))
    (args.out / "_kronq").write_text(zsh(commands))
    (args.out / "kronq.fish").write_text(fish(commands))


if __name__ == "__main__":
    sys.exit(main())
