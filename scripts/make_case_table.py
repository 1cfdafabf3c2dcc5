#!/usr/bin/env python3
"""src/pyvalue/case_table.c: characters whose upper or title case is several characters, as this Python has them. Usage: make_case_table.py OUT"""
def lit(s): return '"' + ''.join('\\x%02x' % b for b in s.encode()) + '"'
rows=[]
for c in range(0x110000):
    if 0xd800<=c<0xe000: continue
    ch=chr(c)
    if len(ch.upper())>1:
        rows.append("{0x%04x, %s, %s}" % (c, lit(ch.upper()), lit(ch.title()) if len(ch.title())>1 else "NULL"))
out='''/* Characters whose upper or title case is more than one character (Unicode's SpecialCasing.txt). Made by scripts/make_case_table.py. */
#include <stddef.h>

#include "pyvalue/case_table.h"

const kq_py_special_case kq_py_special_cases[] = {
'''
line="   "
for r in rows:
    if len(line)+len(r)+2>148: out+=line+"\n"; line="   "
    line+=" "+r+","
out+=line+"\n    {0, NULL, NULL}\n};\n"
import sys; open(sys.argv[1],"w").write(out)
