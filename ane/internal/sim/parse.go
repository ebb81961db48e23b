package sim

import (
	"fmt"
	"strconv"
	"strings"
)

// program is a parsed MIL text: one function of one input and one output.
type program struct {
	input   param
	body    []statement
	results []string
}

type param struct {
	kind kind
	name string
}

// kind is a type: of tensor, the element type and the dimensions.
type kind struct {
	elem string // fp16, int32, bool, string
	dims []int  // nil: a scalar
}

func (k kind) String() string {
	if k.dims == nil {
		return k.elem
	}
	return fmt.Sprintf("tensor<%s, %v>", k.elem, k.dims)
}

// statement is kind name = op(args)[name = string("…")(, val = …)];
type statement struct {
	kind kind
	name string
	op   string
	args []argument
	val  literal // of a const
}

type argument struct{ name, value string }

// arg returns the name that argument name refers to, "" if it is missing.
func (s *statement) arg(name string) string {
	for _, a := range s.args {
		if a.name == name {
			return a.value
		}
	}
	return ""
}

// literal is the value of a const.
type literal struct {
	ints []int
	word string // true or false
}

// parse reads the subset of MIL that dense products need, and is strict about
// it: the compiler's words for anything else are InvalidMILProgram.
func parse(text string) (p *program, err error) {
	s := &scanner{rest: text, line: 1}
	defer func() {
		if bad, ok := recover().(syntaxError); ok {
			p, err = nil, fmt.Errorf("InvalidMILProgram: line %d: %s", s.line, string(bad))
		}
	}()
	return s.program(), nil
}

type syntaxError string

type scanner struct {
	rest string
	line int
}

func (s *scanner) fail(format string, args ...any) { panic(syntaxError(fmt.Sprintf(format, args...))) }

func (s *scanner) space() {
	for s.rest != "" {
		switch s.rest[0] {
		case '\n':
			s.line++
		case ' ', '\t':
		default:
			return
		}
		s.rest = s.rest[1:]
	}
}

// accept skips text if it comes next.
func (s *scanner) accept(text string) bool {
	s.space()
	rest, ok := strings.CutPrefix(s.rest, text)
	s.rest = rest
	return ok
}

func (s *scanner) expect(texts ...string) {
	for _, text := range texts {
		if !s.accept(text) {
			s.fail("want %q before %.20q", text, s.rest)
		}
	}
}

// word is an identifier.
func (s *scanner) word() string {
	s.space()
	n := strings.IndexFunc(s.rest, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
	if n <= 0 || s.rest[0] <= '9' {
		s.fail("want a name before %.20q", s.rest)
	}
	word := s.rest[:n]
	s.rest = s.rest[n:]
	return word
}

// quoted is string("…"), or "…".
func (s *scanner) quoted() string {
	s.expect(`"`)
	text, rest, ok := strings.Cut(s.rest, `"`)
	if !ok || strings.Contains(text, "\n") {
		s.fail("unterminated string")
	}
	s.rest = rest
	return text
}

// ints is [1, 2, …].
func (s *scanner) ints() (v []int) {
	s.expect("[")
	for {
		s.space()
		n := strings.IndexFunc(s.rest, func(r rune) bool { return r < '0' || r > '9' })
		i, err := strconv.Atoi(s.rest[:max(n, 0)])
		if err != nil || i > 1<<30 {
			s.fail("want a number before %.20q", s.rest)
		}
		v, s.rest = append(v, i), s.rest[n:]
		if !s.accept(",") {
			break
		}
	}
	s.expect("]")
	return v
}

func (s *scanner) kind() kind {
	if !s.accept("tensor<") {
		return kind{elem: s.word()}
	}
	elem := s.word()
	s.expect(",")
	dims := s.ints()
	s.expect(">")
	return kind{elem, dims}
}

func (s *scanner) program() *program {
	s.expect("program(1.3)", "[", "buildInfo", "=", "dict<string, string>", "(", "{")
	for {
		s.expect("{")
		s.quoted()
		s.expect(",")
		s.quoted()
		s.expect("}")
		if !s.accept(",") {
			break
		}
	}
	s.expect("}", ")", "]", "{", "func", "main<ios18>", "(")
	p := &program{}
	p.input.kind = s.kind()
	p.input.name = s.word()
	s.expect(")", "{")
	for !s.accept("}") {
		p.body = append(p.body, s.statement())
	}
	s.expect("->", "(")
	for {
		p.results = append(p.results, s.word())
		if !s.accept(",") {
			break
		}
	}
	s.expect(")", ";", "}")
	s.space()
	if s.rest != "" {
		s.fail("text behind the program: %.20q", s.rest)
	}
	return p
}

func (s *scanner) statement() (st statement) {
	st.kind = s.kind()
	st.name = s.word()
	s.expect("=")
	st.op = s.word()
	s.expect("(")
	for !s.accept(")") {
		a := argument{name: s.word()}
		s.expect("=")
		a.value = s.word()
		st.args = append(st.args, a)
		if !s.accept(",") {
			s.expect(")")
			break
		}
	}
	s.expect("[", "name", "=", "string", "(")
	s.quoted()
	s.expect(")")
	if st.op == "const" {
		s.expect(",", "val", "=")
		st.val = s.literal(st.kind)
	}
	s.expect("]", ";")
	return st
}

func (s *scanner) literal(k kind) (l literal) {
	if got := s.kind(); got.String() != k.String() {
		s.fail("a %v as the value of a %v", got, k)
	}
	s.expect("(")
	if k.dims != nil {
		l.ints = s.ints()
		if len(k.dims) != 1 || k.dims[0] != len(l.ints) {
			s.fail("%d values for %v", len(l.ints), k)
		}
	} else {
		l.word = s.word()
	}
	s.expect(")")
	return l
}
