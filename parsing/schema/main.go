// What the gate knows of Kubernetes' own kinds, and what Kubernetes itself makes of objects of them.
//
//	go run . schema             the table of messages and fields, for ../src/protobuf/schema.txt
//	go run . objects SEED COUNT random objects of every kind, one JSON line each, in protobuf and in JSON
//	go run . check              reads such lines, and says which JSON is not the object that its protobuf is
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
)

func main() {
	out := bufio.NewWriter(os.Stdout)
	if err := run(os.Args[1:], out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := out.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, out *bufio.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "schema":
		return writeSchema(out)
	case len(args) == 3 && args[0] == "objects":
		seed, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		count, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return writeObjects(out, seed, count)
	case len(args) == 1 && args[0] == "check":
		return check(os.Stdin, out)
	}
	return fmt.Errorf("usage: schema | objects SEED COUNT | check")
}
