// program.h - the program to run: where it is, what it comes down to, whether weft can help it.
//
// Owns:        the search on PATH, the way through #! lines, and the verdict.
// Keeps true:  finds exactly what execvp would find, and starts it with exactly the arguments that
//              were given.
// Called by:   run.cc.
// See also:    elf.h (the facts of a file).

#pragma once

#include <string>
#include <vector>

#include "tools/weft/elf.h"

namespace weft::launcher {

struct Program {
  std::string name;      // as the user wrote it
  std::string path;      // what is handed to exec; empty when there is nothing to hand
  int error = 0;         // why not: ENOENT, or EACCES for something that may not be executed
  std::string image;     // what will run in the end: path, or the interpreter behind its #! line
  ElfFacts elf;          // of image
  std::string obstacle;  // why weft cannot help, the rest of a sentence about image; or empty
};

Program find_program(const std::string& name);

// Replaces this process. Returns only on failure, with the errno value.
int execute(const Program& program, const std::vector<std::string>& arguments);

}  // namespace weft::launcher
