// Settle adds up the day's payments, one "id cents" per line of its input.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"storefront/internal/money"
	"storefront/internal/server"
)

func main() {
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		fmt.Println("settle", server.Version)
		return
	}
	total, n, err := settle(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "settle:", err)
		os.Exit(1)
	}
	fmt.Printf("%d payments, %s in all\n", n, total)
}

func settle(r io.Reader) (total money.Cents, n int, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		_, amount, ok := strings.Cut(lines.Text(), " ")
		cents, err := strconv.ParseInt(amount, 10, 64)
		if !ok || err != nil {
			return 0, 0, fmt.Errorf("line %d: %q is not an id and cents", n+1, lines.Text())
		}
		total += money.Cents(cents)
		n++
	}
	return total, n, lines.Err()
}
