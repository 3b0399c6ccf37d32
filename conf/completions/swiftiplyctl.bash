# Completions of swiftiplyctl for bash; made by `swiftiplyctl completions bash`.
_swiftiplyctl() {
    local current=${COMP_WORDS[COMP_CWORD]} before='' words='' word skip='' at
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [ -n "$skip" ]; then skip=''; continue; fi
        case $word in
        -c|--config|-s|--socket|-k|--key-file|-m|--most|-f|--file) skip=1 ;;
        -*) ;;
        *) before=${before:+$before }$word ;;
        esac
    done
    if [ -n "$skip" ]; then
        COMPREPLY=($(compgen -f -- "$current"))
        return
    fi
    case $current in
    -*)
        words='--config --socket --key-file --json --version --help'
        case $before in
        status*) words="--watch $words" ;;
        sites*) words="--watch $words" ;;
        backends*) words="--watch $words" ;;
        certificates*) words="--dry-run $words" ;;
        drain*) words="--wait $words" ;;
        pause*) words="--most --wait $words" ;;
        config\ set*) words="--file --persist --drop-comments $words" ;;
        config\ rm*) words="--persist --drop-comments $words" ;;
        esac ;;
    *)
        case $before in
        '') words='status sites backends certificates reload check upgrade drain undrain pause resume maintenance log config stop completions' ;;
        completions) words='bash zsh fish' ;;
        config) words='show set rm' ;;
        log) words='disabled minimal normal full' ;;
        maintenance\ *) words='on off' ;;
        esac ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _swiftiplyctl swiftiplyctl
