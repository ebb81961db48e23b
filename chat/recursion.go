package chat

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	macroTag = regexp.MustCompile(`\{%[-+]?\s*(macro\s+(\w+)|endmacro)\b`)
	loopTag  = regexp.MustCompile(`\{%[-+]?\s*for\b[^%]*\brecursive\s*[-+]?%\}`)
	word     = regexp.MustCompile(`\w+`)
)

// checkRecursion refuses a template that may call itself, as the interpreter
// does not bound how deep that goes and the stack of a Go program that grows
// too far ends it: loops declared recursive, macros that name themselves or a
// later one that names them. No template of the models that this module runs
// does any of this.
func checkRecursion(source string) error {
	if loopTag.MatchString(source) {
		return fmt.Errorf("chat: the template has a recursive loop, which is not supported")
	}
	bodies, open := map[string]string{}, []string{}
	from := 0
	for _, at := range append(macroTag.FindAllStringSubmatchIndex(source, -1), []int{len(source), len(source), -1, -1, -1, -1}) {
		for _, name := range open { // a nested one is part of those around it
			bodies[name] += " " + source[from:at[0]]
		}
		from = at[1]
		switch {
		case at[4] >= 0:
			open = append(open, source[at[4]:at[5]])
		case len(open) > 0:
			open = open[:len(open)-1]
		}
	}
	calls := map[string][]string{}
	for name, body := range bodies {
		for _, w := range word.FindAllString(body, -1) {
			if _, ok := bodies[w]; ok {
				calls[name] = append(calls[name], w)
			}
		}
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case visiting:
			return fmt.Errorf("chat: the template's macro %s calls itself, which is not supported", strings.ToValidUTF8(name, "?"))
		case done:
			return nil
		}
		state[name] = visiting
		for _, c := range calls[name] {
			if err := visit(c); err != nil {
				return err
			}
		}
		state[name] = done
		return nil
	}
	for name := range bodies {
		if err := visit(name); err != nil {
			return err
		}
	}
	return nil
}
