// tests/launchers.h - the table of direct launcher calls, as a program: see launchers.c.
#ifndef TESTS_LAUNCHERS_H
#define TESTS_LAUNCHERS_H
int launchers_main(int argc, char **argv);
#endif
